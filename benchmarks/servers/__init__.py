"""A server to measure: a module here with a `SERVER`. The command imports it, so it imports nothing heavy itself.

A yardstick's own code stands in the same module, inside functions: it runs in the yardstick's environment.
"""

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module


@dataclass(frozen=True)
class Route:
    path: str
    # How bodies.py encodes what a scenario sends.
    encoding: str


@dataclass(frozen=True)
class Server:
    title: str
    # Arguments for Python; {port}, {workers} and {folder} are replaced, for one in process {encoding}, {pictures} and
    # {seconds}.
    command: tuple[str, ...]
    # By what scenarios send: json, v2_binary, png, jpeg.
    routes: Mapping[str, Route]
    # The letter that issue and report call it by; empty: it is ours, and compared with all that have one.
    yardstick: str = ""
    # The virtual environment under .venv that it runs in.
    environment: str = "dev"
    variables: Mapping[str, str] = field(default_factory=dict)
    # Arguments for Python, run once before the first start: they fill {folder} with what the server needs.
    prepare: tuple[str, ...] = ()
    # It prints its own figures instead of answering requests: what the work costs without a server.
    in_process: bool = False


def all_servers() -> dict[str, Server]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: import_module(f"{__name__}.{name}").SERVER for name in names}
