"""Versions from disk to AVAILABLE and back: repository, loader, registry."""
