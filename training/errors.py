"""What stops a run. Each message is one line for whoever started it, who needs no traceback."""


class RunError(Exception):
    pass


class ConfigError(RunError):
    """A setting that no run can use; the message names it and its value."""


class DatasetError(RunError):
    """Data that is missing or damaged; the message says which, what was expected and how to get it."""


class FitError(RunError):
    """The fit came to nothing that could be served."""
