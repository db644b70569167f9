"""Feedback, written down: a line of JSON for each request, in a file beside the captured requests."""

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from service.observability.rotating_file import RotatingFile

logger = logging.getLogger(__name__)


class FeedbackLine(msgspec.Struct, frozen=True):
    """`time`: when it was given. For each row of the request, the right label (None where none was given) and the one
    that was answered. A later line for the same request counts more."""

    time: datetime
    request_id: str
    model: str
    version: int
    labels: list[str | None]
    answered: list[str]


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(FeedbackLine)


def encode_line(line: FeedbackLine) -> bytes:
    return _encoder.encode(line) + b"\n"


def decode_line(line: bytes) -> FeedbackLine:
    """Raises ValueError if the line is damaged or is no feedback."""
    return _decoder.decode(line)


def feedback_file(capture_file: Path) -> Path:
    """For requests captured in `requests.jsonl`: `requests.feedback.jsonl`."""
    return capture_file.with_name(f"{capture_file.stem}.feedback.jsonl")


class FeedbackFiles:
    """Writes lines beside the captured requests. `dropped` is called for each line that could not be written."""

    def __init__(self, max_bytes: int, dropped: Callable[[], None]) -> None:
        self._max_bytes = max_bytes
        self._dropped = dropped
        # A RotatingFile is for one thread of each process.
        self._lock = threading.Lock()
        self._files: dict[Path, RotatingFile] = {}

    def write(self, capture_file: Path, lines: Sequence[FeedbackLine]) -> None:
        """Feedback that cannot be written down counts all the same."""
        path = feedback_file(capture_file)
        with self._lock:
            if path not in self._files:
                self._files[path] = RotatingFile(path, self._max_bytes)
            for line in lines:
                try:
                    self._files[path].append(encode_line(line))
                except OSError as error:
                    self._dropped()
                    logger.error("%s: feedback is not written: %s", path, error.strerror)
