"""What the fetching process tells the workers, in shared memory: its metrics, and when the first fetch is over."""

import time
from typing import Literal

from service.runtime.shared_memory import FIRST_PROCESS, Cells, Kind, SharedMemory, Store
from service.runtime.shared_values import Values

# The metrics' names, without `_total`.
LAST_LISTING = "serving_store_last_listing_timestamp_seconds"
FAILING = "serving_store_failing"
FAILURES = "serving_store_failures"
FETCHED_BYTES = "serving_store_fetched_bytes"

# `refused`: what was fetched is damaged, or is not what is expected there. `full`: there is no room for it.
FailureKind = Literal["unreachable", "throttled", "denied", "missing", "changed", "refused", "full", "other"]

_FIRST_FETCH = b"first fetch"
_PENDING, _OVER = b"pending", b"over"


class FetchReport:
    """Written by the fetching process alone. Its successor continues the counts."""

    def __init__(self, memory: SharedMemory) -> None:
        self._values = Values(memory)
        self._store = Store(memory, FIRST_PROCESS)
        self._last_listing = self._cells(LAST_LISTING)
        self._failing = self._cells(FAILING)
        self._bytes = self._cells(FETCHED_BYTES)

    def listed(self) -> None:
        self._last_listing[0] = time.time()

    def set_failing(self, is_failing: bool) -> None:
        self._failing[0] = is_failing

    def failed(self, kind: FailureKind) -> None:
        self._cells(FAILURES, kind)[0] += 1

    def fetched(self, size: int) -> None:
        """May be called in several threads; a lost update does no harm."""
        self._bytes[0] += size

    def end_first_fetch(self) -> None:
        self._values.put(_FIRST_FETCH, _OVER)

    def _cells(self, name: str, *labels: str) -> Cells:
        return self._store.cells(Kind.COUNT, name, labels, 1)


def begin_first_fetch(memory: SharedMemory) -> None:
    """Called in the first process, before there are others."""
    Values(memory).put(_FIRST_FETCH, _PENDING)


def first_fetch_is_over(values: Values) -> bool:
    """Whether the models folder holds what it is to begin with; always, if nothing is fetched."""
    return values.get(_FIRST_FETCH) != _PENDING
