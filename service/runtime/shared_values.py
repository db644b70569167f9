"""Byte strings that processes share, each replaced as a whole: reports, load requests, the last valid text of a file.

    word     how often the value was replaced; the last bit says which half holds it
    words    the lengths in the two halves
    bytes    the two halves

A value is written into the unused half, and becomes valid with the first word: a process that is killed in between
leaves the previous value. A value that does not fit gets a new area.
"""

from collections.abc import Callable

from service.runtime.shared_memory import COMMON, Area, Kind, SharedMemory

_HEADER_WORDS = 3
_HEADER = 8 * _HEADER_WORDS
# Leaves room for a later value that is a little longer.
MIN_LENGTH = 64


class Values:
    """Shared values by key and owner. Every access takes the memory's lock, so do not use them in hot paths."""

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        self._end = 0
        # The last one with a value counts.
        self._areas: dict[tuple[int, bytes], list[Area]] = {}

    def get(self, key: bytes, owner: int = COMMON) -> bytes | None:
        with self._memory.locked():
            self._refresh()
            return self._read(owner, key)

    def put(self, key: bytes, value: bytes, owner: int = COMMON) -> None:
        """Raises MemoryFull."""
        with self._memory.locked():
            self._refresh()
            self._write(owner, key, value)

    def change(self, key: bytes, change: Callable[[bytes | None], bytes]) -> bytes:
        """Replace a value by `change` of it, atomically; returns the new one. Raises MemoryFull."""
        with self._memory.locked():
            self._refresh()
            value = change(self._read(COMMON, key))
            self._write(COMMON, key, value)
            return value

    def all(self, prefix: bytes) -> list[tuple[int, bytes]]:
        """Owner and value of each key with this prefix."""
        with self._memory.locked():
            self._refresh()
            found = ((owner, self._read(owner, key)) for owner, key in self._areas if key.startswith(prefix))
            return [(owner, value) for owner, value in found if value is not None]

    def _refresh(self) -> None:
        begin, self._end = self._end, self._memory.end
        for area in self._memory.areas_until(begin, self._end):
            if area.kind == Kind.VALUE:
                self._areas.setdefault((area.owner, area.key), []).append(area)

    def _read(self, owner: int, key: bytes) -> bytes | None:
        for area in reversed(self._areas.get((owner, key), [])):
            words = self._memory.words_of(area)
            if words[0]:
                half = words[0] % 2
                start = _HEADER + half * _half_length(area)
                return bytes(self._memory.bytes_of(area)[start : start + words[1 + half]])
        return None

    def _write(self, owner: int, key: bytes, value: bytes) -> None:
        areas = self._areas.setdefault((owner, key), [])
        if not areas or _half_length(areas[-1]) < len(value):
            length = max(MIN_LENGTH, 2 * len(value))
            areas.append(self._memory.append(Kind.VALUE, owner, key, _HEADER + 2 * length))
            self._end = self._memory.end
        area = areas[-1]
        words = self._memory.words_of(area)
        half = (words[0] + 1) % 2
        start = _HEADER + half * _half_length(area)
        self._memory.bytes_of(area)[start : start + len(value)] = value
        words[1 + half] = len(value)
        words[0] += 1


class Value:
    """One shared value."""

    def __init__(self, values: Values, key: bytes) -> None:
        self._values = values
        self._key = key

    def get(self) -> bytes | None:
        return self._values.get(self._key)

    def put(self, value: bytes) -> None:
        """Raises MemoryFull."""
        self._values.put(self._key, value)


def _half_length(area: Area) -> int:
    return (area.size - _HEADER) // 2
