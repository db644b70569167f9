"""The last rows that feedback was given for, and what they say about a version: how often it is right, and how well its
confidence says so.

    eight bytes   how many rows were ever appended
    rows          see ROW; the newest overwrites the oldest

All worker processes share them. They change under a lock, so feedback that is given twice counts once, wherever it
arrives.
"""

import logging
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple, Protocol

import numpy as np

from service.feedback.answers import oldest_first
from service.runtime.shared_memory import COMMON, Areas, FileLock, Kind, MemoryFull, SharedMemory
from service.tensors.dtypes import Array

HEADER_BYTES = 8
# `request` and `version`: digests. `answered` and `given`: places among the labels.
ROW = np.dtype(
    [("request", "i8"), ("version", "i8"), ("row", "u4"), ("confidence", "f4"), ("answered", "u4"), ("given", "u4")]
)

# The last rows of a version that its figures are about.
MAX_OBSERVED_ROWS = 1_000
# With fewer, accuracy says little.
MIN_OBSERVED_ROWS = 30
# Of equal width, as in training.
CALIBRATION_BINS = 15

_KEY = b"feedback"

logger = logging.getLogger(__name__)


class GivenRow(NamedTuple):
    """`request`, `version`: digests. `row`: its number in the request. `answered`, `given`: places among the labels."""

    request: int
    version: int
    row: int
    confidence: float
    answered: int
    given: int


class Taken(Enum):
    """What became of a row's feedback."""

    NEW = auto()
    SAME = auto()  # It was given before.
    CHANGED = auto()  # Another label was given before.


@dataclass(frozen=True, slots=True)
class Observation:
    """Of the last rows of a version. None while they are too few; `calibration_error`, from 0 to 1, also where the
    scores are no probabilities."""

    rows: int
    accuracy: float | None = None
    calibration_error: float | None = None


class Version(Protocol):
    @property
    def digest(self) -> int: ...


class Observed:
    """The last `size` rows with feedback, of all versions. Safe to use from several threads and processes."""

    def __init__(self, size: int, memory: SharedMemory) -> None:
        self._size = size
        self._lock = threading.Lock()
        length = HEADER_BYTES + ROW.itemsize * size
        self._process_lock: AbstractContextManager[object]
        try:
            area = Areas(memory, Kind.FEEDBACK).take(COMMON, _KEY, length)
        except MemoryFull as error:
            logger.error("%s; each worker process counts feedback on its own", error.strerror)
            content, self._process_lock = memoryview(bytearray(length)), nullcontext()
        else:
            content, self._process_lock = memory.bytes_of(area)[:length], FileLock(memory, area.start)
        self._total = content[:HEADER_BYTES].cast("q")
        self._rows = np.frombuffer(content, ROW, offset=HEADER_BYTES)

    def take(self, rows: Sequence[GivenRow]) -> list[Taken]:
        """Keep these rows; those that are known get the label that is given now."""
        requests = np.array([row.request for row in rows], np.int64)
        # In this order: the lock of files does not exclude threads.
        with self._lock, self._process_lock:
            known = self._rows[: self._total[0]]
            places = np.flatnonzero(np.isin(known["request"], requests)).tolist()
            place_of = {_key(known[place]): place for place in places}
            return [self._take(row, place_of) for row in rows]

    def of(self, version: Version) -> Observation:
        total = self._total[0]
        rows = self._rows[:total]
        places = np.flatnonzero(rows["version"] == version.digest)
        if len(places) < MIN_OBSERVED_ROWS:
            return Observation(len(places))
        rows = rows[oldest_first(places, total % self._size)[-MAX_OBSERVED_ROWS:]]
        is_right = rows["answered"] == rows["given"]
        return Observation(len(rows), float(is_right.mean()), _calibration_error(rows["confidence"], is_right))

    def _take(self, row: GivenRow, place_of: dict[tuple[int, int, int], int]) -> Taken:
        key = row.request, row.version, row.row
        place = place_of.get(key)
        # Those before it may have taken its place.
        if place is not None and _key(self._rows[place]) == key:
            if self._rows["given"][place] == row.given:
                return Taken.SAME
            self._rows["given"][place] = row.given
            return Taken.CHANGED
        place_of[key] = place = self._total[0] % self._size
        self._rows[place] = row
        self._total[0] += 1
        return Taken.NEW


def _key(row: Array) -> tuple[int, int, int]:
    return int(row["request"]), int(row["version"]), int(row["row"])


def _calibration_error(confidences: Array, is_right: Array) -> float | None:
    """The mean difference of confidence and accuracy (Naeini et al., 2015)."""
    if not ((confidences >= 0) & (confidences <= 1)).all():
        return None
    places = np.minimum((confidences * CALIBRATION_BINS).astype(np.intp), CALIBRATION_BINS - 1)
    differences = np.bincount(places, is_right - confidences, CALIBRATION_BINS)
    return float(np.abs(differences).sum() / len(confidences))
