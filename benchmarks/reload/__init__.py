"""Versions come and go under a steady load, and every answer is checked: `python -m benchmarks.reload`."""
