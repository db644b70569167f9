"""Records of requests: the access log, spans and captured requests of a worker process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from service.http import Request
from service.metrics.definitions import Metrics
from service.observability import logging
from service.observability.access_log import RequestLog
from service.observability.capture import Capture, Captures
from service.observability.logging import STANDARD_ERROR, LogWriter
from service.observability.profiler import Profiler
from service.settings import Settings

if TYPE_CHECKING:
    from service.observability.tracing import Spans

# How long the end of the process waits for each of log, spans and capture.
LAST_SECONDS = 3.0


class Records:
    """To be made after the fork."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._writer = LogWriter(STANDARD_ERROR, metrics.log_dropped.labels().inc)
        self._log = RequestLog(settings, self._writer.write)
        self._spans = _spans() if settings.otel else None
        new = partial(_capture, settings, metrics)
        self.captures = Captures(new(Path(settings.capture_file)) if settings.capture_file else None, new)
        self.profiler = Profiler() if settings.grpc_profiler else None
        is_log_alone = self._spans is None and self.profiler is None
        self.answered = self._log.answered if is_log_alone else self._answered

    def _answered(self, request: Request, status: int, body_bytes: int) -> None:
        # The span first: the line names the trace that may begin with it.
        if self._spans is not None:
            self._spans.answered(request, status, body_bytes)
        self._log.answered(request, status, body_bytes)
        if self.profiler is not None:
            self.profiler.answered(request, status)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """While requests are answered. At the end, write what is left."""
        with logging.written_by(self._writer, LAST_SECONDS):
            try:
                yield
            finally:
                self._log.flush()
                if self._spans is not None:
                    self._spans.close(LAST_SECONDS)
                self.captures.close(LAST_SECONDS)

    def end_process(self) -> NoReturn:
        """Exit at once, but write the last lines of the log."""
        self._log.flush()
        self._writer.close(LAST_SECONDS)
        os._exit(1)


def _capture(settings: Settings, metrics: Metrics, file: Path) -> Capture:
    return Capture(
        file,
        settings.capture_share,
        settings.capture_max_bytes,
        metrics.capture_dropped.labels().inc,
    )


def _spans() -> "Spans":
    # Imported here: the packages are optional, and large.
    from service.observability.tracing import otlp_spans

    return otlp_spans()
