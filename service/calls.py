"""A call: what one request asks for and how long its stages took, noted on the way for metrics."""

from time import perf_counter
from typing import cast

from flask import Flask, Response, g, request

from service.metrics import Metrics
from service.registry import LoadedVersion


class Call:
    """`model` and `version` stay empty until a version is found, so that no client can make up new metrics."""

    __slots__ = ("_decoded", "_inferred", "_started", "model", "version")

    def __init__(self) -> None:
        self.model = self.version = ""
        self._started = perf_counter()
        self._decoded = self._inferred = 0.0

    def found(self, loaded: LoadedVersion) -> None:
        self.model, self.version = loaded.model, loaded.version_text

    def decoded(self) -> None:
        """The request's tensors are there."""
        self._decoded = perf_counter()

    def inferred(self) -> None:
        """The model's outputs are there; what is left is to write the answer."""
        self._inferred = perf_counter()

    def end(self, metrics: Metrics, protocol: str, verb: str, status: int) -> None:
        ended = perf_counter()
        metrics.of_call(self.model, self.version, protocol, verb, status).record(
            ended - self._started,
            self._decoded - self._started if self._decoded else 0.0,
            ended - self._inferred if self._inferred else 0.0,
        )
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
