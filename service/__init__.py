"""The service. `create_app` wires everything, once; it is in service/app.py."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service.app import App, create_app

__all__ = ["App", "create_app"]


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: whoever imports a part of the service, like its settings, needs no NumPy.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from service import app

    return getattr(app, name)
