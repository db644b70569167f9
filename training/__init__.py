"""Fits the models and exports them for the service: `python -m training`. `publish` exports a model of one's own."""

from training.importing.publish import publish

__all__ = ["publish"]
