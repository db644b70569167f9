"""Prometheus metrics: definitions, instruments, store, exposition."""
