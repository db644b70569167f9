"""Engines: what runs a version."""
