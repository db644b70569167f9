"""API keys, rate limits, headers."""
