"""Finding captured requests by their ids, for feedback about answers that are no longer remembered."""

import os
import re
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic

import msgspec

from service.errors import Unavailable
from service.observability.capture import Captured, decode_line

# A search ends after so much, in the newest requests first.
MAX_BYTES = 512 * 2**20
MAX_SECONDS = 2.0
# Read together: long enough for the disk, short enough that no other thread waits for it.
CHUNK_BYTES = 2**20

# A line begins with its time and its id.
_HEAD_BYTES = 512
_ID = re.compile(rb'"request_id":"((?:[^"\\]|\\.)*)"')


class Search:
    """Searches files of captured requests; one search at a time, since each takes a core."""

    def __init__(
        self, max_bytes: int = MAX_BYTES, max_seconds: float = MAX_SECONDS, clock: Callable[[], float] = monotonic
    ) -> None:
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._clock = clock
        self._lock = threading.Lock()

    def find(
        self, paths: Sequence[Path], request_ids: Collection[str], check: Callable[[], None]
    ) -> tuple[dict[str, Captured], bool]:
        """The last captured request of each id, and whether everything was searched. `check`: raises when nobody waits
        any more.

        Raises:
            Unavailable: another search takes too long.
        """
        if not self._lock.acquire(timeout=self._max_seconds):
            raise Unavailable("others look for captured requests; come again")
        try:
            return self._find(paths, request_ids, check)
        finally:
            self._lock.release()

    def _find(
        self, paths: Sequence[Path], request_ids: Collection[str], check: Callable[[], None]
    ) -> tuple[dict[str, Captured], bool]:
        # As they are written in a line.
        wanted = {msgspec.json.encode(request_id)[1:-1] for request_id in request_ids}
        found: dict[str, Captured] = {}
        end, left = self._clock() + self._max_seconds, self._max_bytes
        for path in paths:
            for lines, size in _chunks_backwards(path):
                check()
                for line in reversed(lines):
                    if _id_of(line) in wanted:
                        with suppress(ValueError):
                            captured = decode_line(line)
                            found.setdefault(captured.request_id, captured)
                if len(found) == len(wanted):
                    return found, True
                left -= size
                if left <= 0 or self._clock() > end:
                    return found, False
        return found, True


def _id_of(line: bytes) -> bytes:
    """As it is written in the line; empty where there is none."""
    match = _ID.search(line, 0, _HEAD_BYTES)
    return match[1] if match else b""


def _chunks_backwards(path: Path) -> Iterator[tuple[list[bytes], int]]:
    """Whole lines in their order, the last ones first, and how many bytes were read for them. Nothing of a file that is
    missing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        place = os.fstat(descriptor).st_size
        # The parts of a line whose beginning is not read yet, the last one first.
        rest: list[bytes] = []
        while place:
            size = min(CHUNK_BYTES, place)
            place -= size
            chunk = os.pread(descriptor, size, place)
            head, newline, lines = chunk.partition(b"\n")
            if place and not newline:
                rest.append(chunk)
                yield [], size
                continue
            whole = (chunk if not place else lines) + b"".join(reversed(rest))
            rest = [head] if place else []
            yield whole.split(b"\n"), size
    finally:
        os.close(descriptor)
