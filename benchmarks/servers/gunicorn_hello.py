"""The yardstick: what gunicorn itself costs, in a WSGI app that reads the body and answers two words."""

from collections.abc import Callable, Iterable
from typing import Any

COMMAND = [
    "-m",
    "gunicorn",
    "--bind",
    "127.0.0.1:{port}",
    "--worker-class",
    "gthread",
    "--threads",
    "4",
    "--no-control-socket",
    "--log-level",
    "error",
    "benchmarks.servers.gunicorn_hello:application",
]
PATH = "/"


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "11")])
    return [b"hello world"]
