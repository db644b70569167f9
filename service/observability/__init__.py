"""Logs, traces and captured requests."""
