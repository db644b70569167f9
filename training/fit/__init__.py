"""The fit: batches, backups, workers and devices; transfer from EfficientNet-Lite0."""
