"""Records of versions: which of them this worker process loads and runs, and which have killed worker processes.

`service/runtime/deaths.py` reads them when a worker process has died.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from service.engines.base import Engine, LoadError
from service.errors import NotFound, Unavailable
from service.runtime.deaths import (
    BEGAN,
    ENDED,
    HAS_LOADED,
    HAS_RUN,
    LOADER,
    LOADING,
    PARDONS,
    RECORD_BYTES,
    RUNNING,
    SUSPECT,
    Marks,
    record_key,
    version_of,
)
from service.runtime.shared_memory import COMMON, Areas, Kind, MemoryFull, SharedMemory
from service.tensors.dtypes import Array

# How long a version waits until another worker process has loaded it first, or has replaced one that died of it.
MAX_WAIT_SECONDS = 60.0
POLL_SECONDS = 0.02


class Deadly(NotFound, LoadError):
    """Worker processes died of the version; it is neither loaded nor run."""


class VersionRecords:
    def __init__(
        self, memory: SharedMemory | None = None, slot: int = 0, others_listen: Callable[[], bool] = lambda: True
    ) -> None:
        """`memory`: None if this is the only worker process. `others_listen`: whether another process would go on
        answering if this one died; True if there is only one."""
        self._memory = memory or SharedMemory()
        self._others_listen = others_listen
        self._areas = Areas(self._memory, Kind.VERSION)
        self._marks = Marks(self._memory, slot)
        self._loading = threading.local()
        self._one_suspect = threading.Lock()

    @contextmanager
    def loading(self, model: str, version: int, files: int, *, is_serving: bool = False) -> Iterator[None]:
        """While this thread loads the version. `files`: their fingerprint.

        Versions that were being loaded when a worker process died are loaded one at a time, so that the next death
        shows which one it was. A process that `is_serving` lets another load a version first, and does not risk to be
        the second that dies of it.

        Raises Deadly.
        """
        record = self._record(model, version, files)
        if is_serving:
            self._wait_for_others(record)
        with self._one_at_a_time(record):
            record.check()
            record.words[BEGAN] = record.words[BEGAN] or time.monotonic_ns()
            record.words[LOADER] = os.getpid()
            self._loading.record = record
            self._marks.set_loading(record.place)
            try:
                yield
                record.words[HAS_LOADED] = 1
            finally:
                record.words[LOADER] = 0
                self._marks.set_loading(0)
                self._loading.record = None

    def marked(self, engine: Engine) -> Engine:
        """The engine of the version that this thread is loading, with its runs marked."""
        record = getattr(self._loading, "record", None)
        return MarkedEngine(engine, self._marks, record, self._others_listen) if record else engine

    def pardon(self, model: str) -> None:
        """An operator wants the model's versions loaded again, whatever died of them."""
        self._areas.refresh()
        for area in self._areas.found.values():
            if version_of(area.key)[0] == model:
                words = self._memory.words_of(area)
                with self._memory.locked():
                    words[PARDONS] += 1
                    words[ENDED] = words[SUSPECT] = 0

    def end_in_order(self) -> None:
        """This process ends as it should: no version is to blame."""
        self._marks.end_in_order()

    def _record(self, model: str, version: int, files: int) -> "VersionRecord":
        try:
            area = self._areas.take(COMMON, record_key(model, version, files), RECORD_BYTES)
        except MemoryFull:
            # A private record: no other process knows of it.
            return VersionRecord(model, version, memoryview(bytearray(RECORD_BYTES)).cast("q"), 0)
        return VersionRecord(model, version, self._memory.words_of(area), area.start)

    def _wait_for_others(self, record: "VersionRecord") -> None:
        words, own = record.words, os.getpid()
        deadline = time.monotonic() + MAX_WAIT_SECONDS
        while time.monotonic() < deadline and not words[ENDED]:
            with self._memory.locked():
                loader = words[LOADER]
                is_alone = loader in (0, own) or loader not in self._memory.pids()
                if is_alone and self._others_listen() if words[SUSPECT] else is_alone or words[HAS_LOADED]:
                    words[LOADER] = own
                    return
            time.sleep(POLL_SECONDS)

    @contextmanager
    def _one_at_a_time(self, record: "VersionRecord") -> Iterator[None]:
        if not record.words[SUSPECT]:
            yield
            return
        with self._one_suspect:
            yield


def is_deadly(engine: Engine) -> bool:
    """Whether worker processes have died of the engine's version since it was loaded."""
    return isinstance(engine, MarkedEngine) and bool(engine.record.words[ENDED])


class VersionRecord:
    """The shared record of a version with its present files; `runtime/deaths.py` describes the words."""

    def __init__(self, model: str, version: int, words: "memoryview[int]", place: int) -> None:
        self.words = words
        self.place = place
        self.name = f"{model} version {version}"

    def check(self) -> None:
        """Raises Deadly."""
        if deaths := self.words[ENDED]:
            raise Deadly(
                f"{deaths} worker processes died of it; until its files change or a command loads it, none will"
            )


class MarkedEngine:
    """Marks each run of an engine. Once other worker processes have died of the version it runs no more."""

    def __init__(
        self, engine: Engine, marks: Marks, record: VersionRecord, others_listen: Callable[[], bool] = lambda: True
    ) -> None:
        self.name = engine.name
        self.signatures = engine.signatures
        self.runs_on_caller = engine.runs_on_caller
        self.record = record
        self._engine = engine
        self._others_listen = others_listen
        self._run = engine.run
        self._marks = marks
        self._local = marks.local
        self._words = marks.words
        self._place = record.place
        self._record_words = record.words

    def run(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        record = self._record_words
        if record[SUSPECT] or record[ENDED]:
            self._check()
        try:
            running = self._local.place + RUNNING
        except AttributeError:
            running = self._marks.place() + RUNNING
        words = self._words
        words[running] = self._place
        try:
            outputs = self._run(signature, inputs)
            record[HAS_RUN] = 1
            return outputs
        finally:
            words[running] = 0

    def release(self) -> None:
        self._engine.release()

    def _check(self) -> None:
        """Raises Deadly; Unavailable if no process would be left to answer in case this one dies of it too."""
        self.record.check()
        is_loading = self._words[self._marks.place() + LOADING]
        if self._record_words[SUSPECT] == 2 and not is_loading and not self._others_listen():
            raise Unavailable(
                f"a worker process died of {self.record.name}; it is run again once another has taken its place"
            )
