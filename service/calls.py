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


def current_call() -> Call:
    return cast(Call, g.call)


def register(app: Flask, metrics: Metrics) -> None:
    @app.before_request
    def begin() -> None:
        g.call = Call()

    @app.after_request
    def end(response: Response) -> Response:
        # The operator's own routes (health, metrics) would drown what clients do.
        if request.blueprint in ("v1", "v2"):
            call = current_call()
            verb = (request.view_args or {}).get("verb") or (request.endpoint or "").partition(".")[2]
            labels = (call.model, call.version, request.blueprint, verb)
            metrics.requests.labels(*labels, str(response.status_code)).inc()
            metrics.request_duration.labels(*labels).observe(time.perf_counter() - call.started)
        if response.status_code == 413:
            metrics.rejected.labels("too_large").inc()
        return response
