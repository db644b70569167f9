"""Keeps a share of the requests with their answers in a file, for `python -m training replay` to ask another version.

No request waits for it, and none fails with it: a thread encodes and writes what it can, and the rest is counted.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from random import random

import msgspec

from service.inference.context import Call
from service.inference.shadow import first_labels
from service.inference.version import LoadedVersion
from service.observability.captured import Arrays, Captured, encode_line, tensors
from service.observability.rotating_file import RotatingFile
from service.runtime.worker_thread import Background

# Of inputs and outputs that wait to be written: one large request, or thousands of small ones.
MOST_WAITING_BYTES = 64 * 1024 * 1024

logger = logging.getLogger(__name__)


class _Taken(msgspec.Struct, frozen=True):
    call: Call
    loaded: LoadedVersion
    signature: str
    inputs: Arrays
    outputs: Arrays


class Capture:
    """`draw`: a number of [0, 1) for each request that may be kept."""

    def __init__(
        self,
        path: Path,
        share: float,
        most_bytes: int,
        dropped: Callable[[], None],
        draw: Callable[[], float] = random,
        most_waiting_bytes: int = MOST_WAITING_BYTES,
    ) -> None:
        self._path = path
        self._file = RotatingFile(path, most_bytes)
        self._share = share
        self._dropped = dropped
        self._draw = draw
        self._background = Background("capture", self._keep, most_waiting_bytes)
        self._is_failing = False
        self.close = self._background.close

    def offer(self, call: Call, loaded: LoadedVersion, signature: str, inputs: Arrays, outputs: Arrays) -> None:
        """What `loaded` made of a request; too late, it is no answer. Never waits."""
        if self._draw() >= self._share or (call.deadline is not None and call.deadline.is_over):
            return
        weight = _bytes(inputs) + _bytes(outputs)
        if not self._background.offer(_Taken(call, loaded, signature, inputs, outputs), weight):
            self._dropped()

    def _keep(self, taken: _Taken) -> None:
        try:
            self._file.append(encode_line(_captured(taken)))
        # Whatever it is, the next request may fare better, and the thread must be there for it.
        except Exception as error:
            self._dropped()
            if not self._is_failing:
                self._is_failing = True
                logger.error("%s: requests are not captured: %s", self._path, error)
        else:
            if self._is_failing:
                self._is_failing = False
                logger.info("%s: requests are captured again", self._path)


def _captured(taken: _Taken) -> Captured:
    call, loaded = taken.call, taken.loaded
    return Captured(
        datetime.now(UTC),
        call.request_id,
        loaded.model,
        loaded.version,
        loaded.engine.name,
        call.protocol,
        call.verb,
        taken.signature,
        tensors(taken.inputs),
        tensors(taken.outputs),
        first_labels(loaded, taken.outputs, taken.signature),
    )


def _bytes(arrays: Arrays) -> int:
    """And some for what holds them."""
    total = 1024
    for array in arrays.values():
        total += sum(map(len, array.flat)) if array.dtype.kind == "O" else array.nbytes
    return total
