"""The last answers of versions with labels: what each row of a request was answered, by the request's id.

Feedback may reach another worker process than the one that answered, so the answers lie in shared memory: a ring for
each worker's slot, into which its worker alone writes. It needs no lock that another process could hold.

    eight bytes   how many rows were ever written
    rows          see ROW; the newest overwrites the oldest
"""

import logging
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence

import msgspec
import numpy as np

from service.runtime.shared_memory import Areas, Kind, MemoryFull, SharedMemory
from service.tensors.dtypes import Array

HEADER_BYTES = 8
# `request` and `version`: digests. `row`: its number in the request. `label`: the best one's place among the labels.
ROW = np.dtype(
    [("request", "i8"), ("version", "i8"), ("seconds", "u4"), ("row", "u4"), ("confidence", "f4"), ("label", "u4")]
)
_ROW_BYTES = ROW.itemsize
# Writes one row, quicker than NumPy.
_write_row = struct.Struct("=qqIIfI").pack_into

# One key for all sizes: each service has one.
_KEY = b"answers"

logger = logging.getLogger(__name__)


class Answer(msgspec.Struct, frozen=True):
    """What a request was answered. `version`: the digest of the version. A label and its score for each row; `seconds`:
    since 1970."""

    version: int
    seconds: int
    labels: Sequence[int]
    confidences: Sequence[float]


def digest_of(request_id: str) -> int:
    """The same in every worker process: they inherit the seed of hash, which nobody else knows."""
    return hash(request_id)


class Answers:
    """Remembers the answers of this process, and finds those of all."""

    def __init__(
        self, rows: int, memory: SharedMemory, slot: int = 0, workers: int = 1, clock: Callable[[], float] = time.time
    ) -> None:
        """`rows`: of all `workers` together; each has its share. `clock`: seconds since 1970."""
        self.size = max(1, rows // workers)
        self._memory = memory
        self._clock = clock
        self._areas = Areas(memory, Kind.ANSWERS)
        self._lock = threading.Lock()
        self._bytes = self._own_bytes(slot)
        self._shared_count = self._bytes[:HEADER_BYTES].cast("q")
        # Where the slot had a worker before, it goes on.
        self._count = self._shared_count[0]
        self._rows = _rows_of(self._bytes)

    def remember(self, request_id: str, version: int, labels: Sequence[int], confidences: Sequence[float]) -> None:
        """`version`: its digest. A label and its score for each row."""
        if len(labels) != 1:
            self._remember_rows(request_id, version, labels, confidences)
            return
        with self._lock:
            count = self._count
            place = HEADER_BYTES + _ROW_BYTES * (count % self.size)
            seconds = int(self._clock())
            _write_row(self._bytes, place, hash(request_id), version, seconds, 0, confidences[0], labels[0])
            # Last: whoever is killed before leaves no half row that counts.
            self._shared_count[0] = self._count = count + 1

    def find(self, request_ids: Collection[str]) -> dict[str, list[Answer]]:
        """The remembered answers with these ids, the last one first. Clients choose ids, so one may have several."""
        by_digest = {digest_of(request_id): request_id for request_id in request_ids}
        wanted = np.fromiter(by_digest, np.int64, len(by_digest))
        found: dict[str, list[Answer]] = defaultdict(list)
        for rows in self._all_rows(wanted):
            for request, answer in _answers(rows):
                found[by_digest[request]].append(answer)
        for answers in found.values():
            answers.sort(key=lambda answer: answer.seconds, reverse=True)
        return found

    def _own_bytes(self, slot: int) -> memoryview:
        size = HEADER_BYTES + _ROW_BYTES * self.size
        try:
            return self._memory.bytes_of(self._areas.take(slot, _KEY, size))[:size]
        except MemoryFull as error:
            logger.error("%s; feedback about this process's answers will be unknown", error.strerror)
            return memoryview(bytearray(size))

    def _remember_rows(
        self, request_id: str, version: int, labels: Sequence[int], confidences: Sequence[float]
    ) -> None:
        count = len(labels)
        # Of a request that does not fit no row could be joined.
        if not 0 < count <= self.size:
            return
        rows = np.empty(count, ROW)
        rows["request"], rows["version"], rows["seconds"] = digest_of(request_id), version, int(self._clock())
        rows["row"], rows["label"], rows["confidence"] = np.arange(count), labels, confidences
        with self._lock:
            first = self._count % self.size
            at_end = min(count, self.size - first)
            self._rows[first : first + at_end] = rows[:at_end]
            self._rows[: count - at_end] = rows[at_end:]
            self._shared_count[0] = self._count = self._count + count

    def _all_rows(self, wanted: Array) -> Iterator[Array]:
        """The rows of these requests in each worker's ring, the oldest first."""
        self._areas.refresh()
        for area in self._areas.found.values():
            content = self._memory.bytes_of(area)[: HEADER_BYTES + _ROW_BYTES * self.size]
            count = content[:HEADER_BYTES].cast("q")[0]
            ring = _rows_of(content)[:count]
            places = oldest_first(np.flatnonzero(np.isin(ring["request"], wanted)), count % self.size)
            rows = ring[places]
            # Its worker may have overwritten some meanwhile, the request first.
            yield rows[ring["request"][places] == rows["request"]]


def oldest_first(places: Array, end: int) -> Array:
    """Places in a ring, which increase, in the order of their writing. `end`: where the next one is written."""
    turn = np.searchsorted(places, end)
    return np.concatenate([places[turn:], places[:turn]])


def _rows_of(content: memoryview) -> Array:
    return np.frombuffer(content, ROW, offset=HEADER_BYTES)


def _answers(rows: Array) -> Iterator[tuple[int, Answer]]:
    """The last answer of each request and version, with the request's digest. `rows`: the oldest first. Of the oldest
    answer the first rows may be overwritten; the rest, which has no beginning, is left out."""
    starts = np.flatnonzero(rows["row"] == 0)
    ends = np.append(starts[1:], len(rows))
    # One id may have any number of answers.
    newest = np.unique(rows[["request", "version"]][starts][::-1], return_index=True)[1]
    for place in (len(starts) - 1 - newest).tolist():
        one = rows[starts[place] : ends[place]]
        yield (
            int(one["request"][0]),
            Answer(int(one["version"][0]), int(one["seconds"][0]), one["label"].tolist(), one["confidence"].tolist()),
        )
