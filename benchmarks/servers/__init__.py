"""Servers to measure. A yardstick's module also runs in the yardstick's own environment: it imports nothing heavy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Route:
    """`encoding`: how bodies.py encodes what is sent there."""

    path: str
    encoding: str


@dataclass(frozen=True)
class Server:
    """How to start a server, and what it can be sent.

    `command`: arguments for Python; {port}, {workers} and {folder} are replaced, in process {encoding}, {pictures} and
    {seconds}. `routes`: by what a scenario sends (json, v2_binary, png, jpeg). `yardstick`: what ours are compared
    with has a letter or a name here. `environment`: under .venv. `prepare` fills {folder}. `in_process`: it takes no
    requests and prints its own figures.
    """

    title: str
    command: tuple[str, ...]
    routes: Mapping[str, Route]
    yardstick: str = ""
    environment: str = "dev"
    variables: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[Path], None] | None = None
    in_process: bool = False
