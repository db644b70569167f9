"""Errors that end a run. The command prints the message as one line, without a traceback."""


class RunError(Exception):
    """The run cannot go on; the message says why."""


class ConfigError(RunError):
    """A setting is invalid; the message names it and its value."""


class DatasetError(RunError):
    """Data is missing or damaged; the message says which, what was expected and how to get it."""


class FitError(RunError):
    """The fit gave no model to serve."""
