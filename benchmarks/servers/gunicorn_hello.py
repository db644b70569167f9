"""What gunicorn itself costs: a WSGI app that reads the body and answers two words."""

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.servers import Route, Server

SERVER = Server(
    title="bare WSGI hello on gunicorn gthread",
    yardstick="a",
    command=(
        "-m",
        "gunicorn",
        "--bind=127.0.0.1:{port}",
        "--workers={workers}",
        "--worker-class=gthread",
        "--threads=4",
        # As our service: without it, connections that are kept alive pile up on one worker.
        "--reuse-port",
        "--no-control-socket",
        "--log-level=error",
        "benchmarks.servers.gunicorn_hello:application",
    ),
    routes={"json": Route("/", "v1_json")},
)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "11")])
    return [b"hello world"]
