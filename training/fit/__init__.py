"""The fit: batches, backup, workers and devices; transfer from EfficientNet-Lite0."""
