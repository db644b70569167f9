"""Imports models that were trained elsewhere: `python -m training import`, and `training.publish` for notebooks."""
