"""A server to measure: a module here with `COMMAND`, arguments for Python in which {port} is replaced, and `PATH`."""
