"""Ten times as many clients as a worker takes: `python -m benchmarks.overload`."""
