"""Fits the models and exports them for the service: `python -m training`."""
