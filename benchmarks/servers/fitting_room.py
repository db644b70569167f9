"""This service with one worker process and the shipped models."""

COMMAND = ["-m", "service", "--port", "{port}", "--workers", "1"]
PATH = "/v1/models/clothing:predict"
