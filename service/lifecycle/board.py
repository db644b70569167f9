"""What the worker processes tell each other, through the memory that they share.

Each worker writes how far it is with every version. A wish is for all of them: to load a model, or to unload it.
"""

import hashlib
import logging
import os
from typing import Literal

import msgspec

from service.runtime.shared_memory import MemoryFull, SharedMemory
from service.runtime.shared_values import Values

# A version that is loaded and warmed up, in this worker at least; whether the others are so far is another question.
PREPARED = "PREPARED"

_REPORT, _WISH, _SLOW, _SAID = b"report", b"wish ", b"slow ", b"said "

logger = logging.getLogger(__name__)

# PREPARED or one of TensorFlow Serving's states, by model and version.
Progress = dict[str, dict[int, str]]


class Report(msgspec.Struct, frozen=True):
    """`heard`: by model, the last wish that the worker has acted upon. `is_serving`: it has tried all that it found at
    its start. `folders`: by model and version the folders (`Folder.identity`) that it has loaded, or could not."""

    progress: Progress = {}
    heard: dict[str, int] = {}
    is_serving: bool = False
    folders: dict[str, dict[int, list[str]]] = {}

    def of(self, model: str, version: int) -> str | None:
        return self.progress.get(model, {}).get(version)

    def has_tried(self, model: str, version: int, folder: str) -> bool:
        return folder in self.folders.get(model, {}).get(version, ())


class _Published(msgspec.Struct, frozen=True):
    """`pid`: of the worker, by which its report is told from one of the worker before it."""

    pid: int
    report: Report


class Wish(msgspec.Struct, frozen=True):
    """The last one for a model counts. `number` grows from wish to wish."""

    model: str
    action: Literal["load", "unload"]
    number: int


class Slow(msgspec.Struct, frozen=True):
    """A version that no event loop is to run, as long as the service lives."""

    model: str
    version: int


class Board:
    def __init__(self, memory: SharedMemory | None = None, slot: int = 0) -> None:
        """`memory` None: there is one worker only, and nobody to tell."""
        self._memory = memory or SharedMemory()
        self._values = Values(self._memory)
        self._slot = slot
        self._published: Report | None = None
        self._is_full = False
        self._slow: set[Slow] = set()

    def publish(self, report: Report) -> None:
        """Where there is no room, the next time."""
        if report == self._published:
            return
        published = _Published(os.getpid(), report)
        try:
            self._values.put(_REPORT, msgspec.json.encode(published), self._slot)
        except MemoryFull as error:
            if not self._is_full:
                logger.error("other worker processes cannot be told of versions: %s", error.strerror)
            self._is_full = True
        else:
            self._published = report
            self._is_full = False

    def others(self) -> list[Report]:
        """The reports of all other workers that live."""
        found = [(slot, value) for slot, value in self._values.all(_REPORT) if slot != self._slot]
        published = [(slot, msgspec.json.decode(value, type=_Published)) for slot, value in found]
        # What a dead worker reported stays where its successor will report.
        return [one.report for slot, one in published if one.pid == self._memory.pid(slot)]

    def wish(self, model: str, action: Literal["load", "unload"]) -> int:
        """Its number. Raises MemoryFull."""

        def next_wish(before: bytes | None) -> bytes:
            number = msgspec.json.decode(before, type=Wish).number + 1 if before else 1
            return msgspec.json.encode(Wish(model, action, number))

        return msgspec.json.decode(self._values.change(_WISH + model.encode(), next_wish), type=Wish).number

    def is_first(self, sentence: str) -> bool:
        """Whether no other worker process has said this: what is about the disk need not be logged by all of them."""
        try:
            said = self._values.change(_SAID + hashlib.sha256(sentence.encode()).digest(), _next_number)
        except MemoryFull:
            return True  # better twice than never
        return said == b"1"

    def wishes(self) -> dict[str, Wish]:
        found = [msgspec.json.decode(value, type=Wish) for _, value in self._values.all(_WISH)]
        return {wish.model: wish for wish in found}

    def note_slow(self, slow: Slow) -> None:
        """Where there is no room, for this worker alone."""
        # Replaced, not changed: the watcher may be going through it.
        self._slow = {*self._slow, slow}
        encoded = msgspec.json.encode(slow)
        try:
            self._values.put(_SLOW + encoded, encoded)
        except MemoryFull as error:
            logger.error("other worker processes cannot be told of slow versions: %s", error.strerror)

    def slow(self) -> set[Slow]:
        return self._slow.union(msgspec.json.decode(value, type=Slow) for _, value in self._values.all(_SLOW))


def _next_number(before: bytes | None) -> bytes:
    return str(int(before or 0) + 1).encode()
