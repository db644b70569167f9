"""Process and machine: CPU and memory limits, shared memory, files that are polled, threads."""
