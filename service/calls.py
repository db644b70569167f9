"""A call: what one request asks for, noted on the way for metrics."""

import time
from dataclasses import dataclass, field
from typing import cast

from flask import Flask, Response, g, request

from service.metrics import Metrics
from service.registry import LoadedVersion


@dataclass(slots=True)
class Call:
    """`model` and `version` stay empty until a version is found, so that no client can make up new metrics."""

    started: float = field(default_factory=time.perf_counter)
    model: str = ""
    version: str = ""

    def found(self, loaded: LoadedVersion) -> None:
        self.model, self.version = loaded.model, str(loaded.version)

    def end(self, metrics: Metrics, protocol: str, verb: str, status: int) -> None:
        requests, duration = metrics.of_call(self.model, self.version, protocol, verb, status)
        requests.inc()
        duration.observe(time.perf_counter() - self.started)
        if status == 413:
            metrics.rejected.labels("too_large").inc()


def current_call() -> Call:
    return cast(Call, g.call)


def register(app: Flask, metrics: Metrics) -> None:
    """Counts what comes by Flask."""

    @app.before_request
    def begin() -> None:
        g.call = Call()

    @app.after_request
    def end(response: Response) -> Response:
        # The operator's own routes (health, metrics) would drown what clients do.
        if request.blueprint in ("v1", "v2"):
            verb = (request.view_args or {}).get("verb") or (request.endpoint or "").partition(".")[2]
            current_call().end(metrics, request.blueprint, verb, response.status_code)
        return response
