"""How the worker processes agree: a version is AVAILABLE once all of them have loaded it, or could not. What it takes
the place of goes once it is AVAILABLE in all of them."""

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Literal

import msgspec

from service.errors import InvalidRequest, Unavailable
from service.inference.version import LoadedVersion, State
from service.lifecycle.registry import Registry
from service.runtime.shared_memory import MemoryFull, SharedMemory
from service.runtime.shared_values import Values

# What the worker processes tell each other, through the memory that they share.
#
# Each worker writes how far it is with every version. A wish is for all of them: to load a model, or to unload it.

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


Key = tuple[str, int]

_SETTLED_HERE = (PREPARED, State.AVAILABLE, State.END)
ASK_SECONDS = 0.02


class Agreement:
    """`patience_seconds`: for loading or unloading by command; `start_seconds`: for the others at the start."""

    def __init__(
        self,
        registry: Registry,
        board: Board | None = None,
        patience_seconds: float = 120,
        start_seconds: float = 10,
    ) -> None:
        self._registry = registry
        self._board = board or Board()
        self._patience_seconds = patience_seconds
        self._start_seconds = start_seconds
        self._heard: dict[str, Wish] = {}
        self._acknowledged: dict[str, int] = {}
        # What is loaded here from other files than it answers from in other worker processes, since when.
        self._ahead_since: dict[Key, float] = {}
        # Set when the watcher has something to do before its next look.
        self.wake = threading.Event()

    def load(self, model: str) -> None:
        """In all worker processes; also what failed before.

        Raises:
            InvalidRequest: a version cannot be loaded.
            Unavailable: it takes too long, and goes on; or there is no room to tell the others.
        """
        self._command(model, "load", (State.AVAILABLE, State.END))
        statuses = self._registry.statuses().get(model, {})
        reasons = [f"version {version}: {status.error}" for version, status in statuses.items() if status.error]
        for report in self._board.others():
            failed = [version for version, state in report.progress.get(model, {}).items() if state == State.END]
            reasons += [f"version {version}: not by every worker process; the log says why" for version in failed]
        if reasons:
            raise InvalidRequest(f"{model} cannot be loaded: {'; '.join(reasons)}")

    def unload(self, model: str) -> None:
        """In all worker processes, after the last requests; until `load`.

        Raises:
            Unavailable: it takes too long, and goes on; or there is no room to tell the others.
        """
        self._command(model, "unload", (State.START, State.END))

    def ask_for(self, model: str) -> None:
        """A request needs a model that is loaded on demand."""
        if self.wished(model) != "load":
            self._wish(model, "load")
        self.wake.set()

    def keep_off_loops(self, model: str, version: int) -> None:
        """No event loop is to run the version any more, of whichever worker process."""
        self._board.note_slow(Slow(model, version))
        self.wake.set()

    def kept_off_loops(self) -> set[Key]:
        return {(slow.model, slow.version) for slow in self._board.slow()}

    def wished(self, model: str) -> Literal["load", "unload"] | None:
        wish = self._heard.get(model)
        return wish.action if wish else None

    def hear(self) -> list[Wish]:
        """The wishes that are new here."""
        new = [wish for wish in self._board.wishes().values() if self._heard.get(wish.model) != wish]
        self._heard.update({wish.model: wish for wish in new})
        return new

    def acknowledge(self, wishes: list[Wish]) -> None:
        """They have been acted upon."""
        self._acknowledged |= {wish.model: wish.number for wish in wishes}
        self.publish()

    def promote(self) -> dict[Key, LoadedVersion | None]:
        """Makes AVAILABLE what all workers have loaded, or could not load. Says what that was, and what had its number
        before, if anything did."""
        pending, replacements = self._pending(), self._registry.replacements()
        reports = self._board.others() if pending or replacements else []
        promoted: dict[Key, LoadedVersion | None] = {}
        self._note_ahead(pending, reports)
        for key in pending:
            if all(report.of(*key) in _SETTLED_HERE for report in reports) and not self._waits_for_others(key):
                self._registry.make_available(*key)
                promoted[key] = None
        for key, loaded in replacements.items():
            folder = loaded.folder
            if folder is None or all(report.has_tried(*key, folder.identity) for report in reports):
                promoted[key] = self._registry.swap(*key)
        self.publish()
        return promoted

    def is_available_everywhere(self, key: Key) -> bool:
        """In every worker process, not only in those that could load it."""
        status = self._registry.statuses().get(key[0], {}).get(key[1])
        return (
            status is not None
            and status.state is State.AVAILABLE
            and all(report.of(*key) == State.AVAILABLE for report in self._board.others())
        )

    def available_elsewhere(self) -> set[Key]:
        return {
            (model, version)
            for report in self._board.others()
            for model, versions in report.progress.items()
            for version, state in versions.items()
            if state == State.AVAILABLE
        }

    def is_loaded_otherwise(self, loaded: LoadedVersion) -> bool:
        """Whether another worker process has loaded, or could not, other files in its place."""
        if loaded.folder is None:
            return False
        tried = [report.folders.get(loaded.model, {}).get(loaded.version, ()) for report in self._board.others()]
        return any(identity != loaded.folder.identity for identities in tried for identity in identities)

    def is_first(self, sentence: str) -> bool:
        """Whether no other worker process has said it."""
        return self._board.is_first(sentence)

    def publish(self) -> None:
        self._board.publish(self._report())

    def others_serve(self) -> bool:
        return any(report.is_serving for report in self._board.others())

    def wait_until_all_agree(self, coordinate: Callable[[], None], pause_seconds: float) -> None:
        """Not for long: a worker that is stuck must not hold up one that could answer. Longer where the others answer
        from other files, until they have loaded these."""
        deadline = time.monotonic() + self._start_seconds
        while (pending := self._pending()) and (
            time.monotonic() < deadline or any(map(self._waits_for_others, pending))
        ):
            self.wake.wait(pause_seconds)
            self.wake.clear()
            coordinate()

    def _wish(self, model: str, action: Literal["load", "unload"]) -> int:
        try:
            return self._board.wish(model, action)
        except OSError as error:
            raise Unavailable(f"the worker processes cannot be told to {action} {model}: {error.strerror}") from None

    def _pending(self) -> list[Key]:
        statuses = self._registry.statuses()
        keys = [(loaded.model, loaded.version) for loaded in self._registry.loaded()]
        return [key for key in keys if statuses[key[0]][key[1]].state is State.LOADING]

    def _note_ahead(self, pending: list[Key], reports: list[Report]) -> None:
        versions = {(loaded.model, loaded.version): loaded for loaded in self._registry.loaded()}
        now = time.monotonic()
        ahead = [key for key in pending if _is_ahead(versions[key], reports)]
        self._ahead_since = {key: self._ahead_since.get(key, now) for key in ahead}

    def _waits_for_others(self, key: Key) -> bool:
        since = self._ahead_since.get(key)
        return since is not None and time.monotonic() - since < self._patience_seconds

    def _report(self) -> Report:
        pending = set(self._pending())
        progress = {
            model: {
                version: PREPARED if (model, version) in pending else str(status.state)
                for version, status in versions.items()
            }
            for model, versions in self._registry.statuses().items()
        }
        return Report(progress, dict(self._acknowledged), self._registry.first_scan_done.is_set(), self._folders())

    def _folders(self) -> dict[str, dict[int, list[str]]]:
        tried: dict[str, dict[int, list[str]]] = {}
        for loaded in (*self._registry.loaded(), *self._registry.replacements().values()):
            if loaded.folder is not None:
                tried.setdefault(loaded.model, {}).setdefault(loaded.version, []).append(loaded.folder.identity)
        for model, versions in self._registry.statuses().items():
            for version, status in versions.items():
                if status.failed_folder:
                    tried.setdefault(model, {}).setdefault(version, []).append(status.failed_folder)
        return tried

    def _command(self, model: str, action: Literal["load", "unload"], states: tuple[State, ...]) -> None:
        number = self._wish(model, action)
        self.wake.set()
        deadline = time.monotonic() + self._patience_seconds
        while not all(
            report.heard.get(model, 0) >= number
            and all(state in states for state in report.progress.get(model, {}).values())
            for report in (self._report(), *self._board.others())
        ):
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"to {action} {model} takes longer than {self._patience_seconds:g} s; it goes on, "
                    f"and GET /v1/models/{model} tells how far it is"
                )
            time.sleep(ASK_SECONDS)


def _is_ahead(loaded: LoadedVersion, reports: list[Report]) -> bool:
    """Whether a worker process answers from other files, and has not tried these."""
    key, folder = (loaded.model, loaded.version), loaded.folder
    return folder is not None and any(
        report.of(*key) == State.AVAILABLE and not report.has_tried(*key, folder.identity) for report in reports
    )
