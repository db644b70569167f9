"""Commands: predict, key, and the greeting at start."""
