"""What the service is made of: its version, Python's, and those of its engines."""

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

NAME, VERSION = "fitting-room", "0.1.0"

# The packages of each engine, of which one is installed at most.
_PACKAGES = {"litert": ("ai-edge-litert",), "tensorflow": ("tensorflow-cpu", "tensorflow")}


@cache
def engine_version(engine: str) -> str:
    """Empty where the engine is not installed."""
    for package in _PACKAGES[engine]:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return ""


def versions() -> dict[str, str]:
    """By what each is the version of."""
    return {
        "version": VERSION,
        "python": platform.python_version(),
        **{engine: engine_version(engine) for engine in _PACKAGES},
    }
