"""Agreement of the worker processes, through the memory that they share.

A version becomes AVAILABLE once all worker processes have loaded it, or failed to. The version that it replaces is
unloaded once it is AVAILABLE in all of them. A request to load or unload a model goes to all of them.
"""

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Collection
from typing import Literal

import msgspec

from service.errors import InvalidRequest, Unavailable
from service.inference.version import LoadedVersion, State
from service.lifecycle.registry import Registry
from service.lifecycle.repository import Key
from service.runtime.shared_memory import MemoryFull, SharedMemory
from service.runtime.shared_values import Values

# Loaded and warmed up in this worker process; other worker processes may still be loading it.
PREPARED = "PREPARED"
# How often `load` and `unload` poll the reports of the other worker processes.
COMMAND_POLL_SECONDS = 0.02

_UNSETTLED = (State.START, State.LOADING)
_SETTLED_HERE = (PREPARED, State.AVAILABLE, State.END)

_REPORT, _REQUEST, _SLOW, _LOGGED = b"report", b"request ", b"slow ", b"logged "

Action = Literal["load", "unload"]
# PREPARED or one of TensorFlow Serving's states, by model and version.
Progress = dict[str, dict[int, str]]

logger = logging.getLogger(__name__)


class Report(msgspec.Struct, frozen=True):
    """The state of one worker process.

    `acknowledged`: by model, the number of the last LoadRequest that was carried out. `is_serving`: the first scan is
    done. `folders`: by model and version, each `Folder.identity` that was loaded, or failed to. `reloaded`: the number
    of the last request to reload the policies that was carried out.
    """

    progress: Progress = {}
    acknowledged: dict[str, int] = {}
    is_serving: bool = False
    folders: dict[str, dict[int, list[str]]] = {}
    reloaded: int = 0

    def of(self, model: str, version: int) -> str | None:
        return self.progress.get(model, {}).get(version)

    def has_tried(self, model: str, version: int, folder: str) -> bool:
        return folder in self.folders.get(model, {}).get(version, ())


class LoadRequest(msgspec.Struct, frozen=True):
    """To load or unload a model in all worker processes. Only the last one for a model counts; `number` grows."""

    model: str
    action: Action
    number: int


class SlowVersion(msgspec.Struct, frozen=True):
    """A version that no event loop may run, until the service restarts."""

    model: str
    version: int


class _Published(msgspec.Struct, frozen=True):
    """`pid`: of the worker process; a report of an earlier process in the same slot does not count."""

    pid: int
    report: Report


# Made once: two threads that are the first to decode a type crash the process (msgspec 0.22).
_reports = msgspec.json.Decoder(_Published)
_load_requests = msgspec.json.Decoder(LoadRequest)
_slow_versions = msgspec.json.Decoder(SlowVersion)


class Board:
    """What the worker processes tell each other: reports, load requests, slow versions."""

    def __init__(self, memory: SharedMemory | None = None, slot: int = 0) -> None:
        """`memory`: None if this is the only worker process. `values`: what all of them share."""
        self._memory = memory or SharedMemory()
        self.values = Values(self._memory)
        self._slot = slot
        self._published: Report | None = None
        self._is_full = False
        self._slow: set[SlowVersion] = set()

    def publish(self, report: Report) -> None:
        """If the memory is full, the next call tries again."""
        if report == self._published:
            return
        published = _Published(os.getpid(), report)
        try:
            self.values.put(_REPORT, msgspec.json.encode(published), self._slot)
        except MemoryFull as error:
            if not self._is_full:
                logger.error("other worker processes cannot be told of versions: %s", error.strerror)
            self._is_full = True
        else:
            self._published = report
            self._is_full = False

    def others(self) -> list[Report]:
        """The reports of all other worker processes that are alive."""
        found = [(slot, value) for slot, value in self.values.all(_REPORT) if slot != self._slot]
        published = [(slot, _reports.decode(value)) for slot, value in found]
        # The report of a dead process stays until its successor publishes one.
        return [one.report for slot, one in published if one.pid == self._memory.pid(slot)]

    def request(self, model: str, action: Action) -> int:
        """Returns the number of the LoadRequest. Raises MemoryFull."""

        def following(before: bytes | None) -> bytes:
            number = _load_requests.decode(before).number + 1 if before else 1
            return msgspec.json.encode(LoadRequest(model, action, number))

        encoded = self.values.change(_REQUEST + model.encode(), following)
        return _load_requests.decode(encoded).number

    def requests(self) -> dict[str, LoadRequest]:
        """By model, the last one."""
        found = [_load_requests.decode(value) for _, value in self.values.all(_REQUEST)]
        return {request.model: request for request in found}

    def is_first(self, message: str) -> bool:
        """Whether no other worker process has logged this message: one line about the disk is enough."""
        try:
            count = self.values.change(_LOGGED + hashlib.sha256(message.encode()).digest(), _next_number)
        except MemoryFull:
            return True  # better twice than never
        return count == b"1"

    def add_slow(self, slow: SlowVersion) -> None:
        """If the memory is full, only this worker process knows."""
        # A new set, since the watcher may be iterating over the old one.
        self._slow = {*self._slow, slow}
        encoded = msgspec.json.encode(slow)
        try:
            self.values.put(_SLOW + encoded, encoded)
        except MemoryFull as error:
            logger.error("other worker processes cannot be told of slow versions: %s", error.strerror)

    def slow(self) -> set[SlowVersion]:
        return self._slow.union(_slow_versions.decode(value) for _, value in self.values.all(_SLOW))


class Agreement:
    def __init__(
        self,
        registry: Registry,
        board: Board | None = None,
        timeout_seconds: float = 120,
        start_timeout_seconds: float = 10,
    ) -> None:
        """`timeout_seconds`: for `load` and `unload`. `start_timeout_seconds`: for the other worker processes, at the
        start of this one."""
        self._registry = registry
        self._board = board or Board()
        self._timeout_seconds = timeout_seconds
        self._start_timeout_seconds = start_timeout_seconds
        self._requests: dict[str, LoadRequest] = {}
        self._acknowledged: dict[str, int] = {}
        self._reloaded = 0
        # Since when versions have been loaded here from other files than the other worker processes answer from.
        self._ahead_since: dict[Key, float] = {}
        # Set when the watcher has something to do before its next poll.
        self.wake = threading.Event()

    def load(self, model: str) -> None:
        """In all worker processes; versions that failed are tried again.

        Raises:
            InvalidRequest: a version cannot be loaded.
            Unavailable: it takes longer than the timeout, and goes on; or the shared memory is full.
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
        """In all worker processes, once their requests are done; until `load`.

        Raises:
            Unavailable: it takes longer than the timeout, and goes on; or the shared memory is full.
        """
        self._command(model, "unload", (State.START, State.END))

    def reload(self, models: Collection[str], number: int, gone: str = "") -> None:
        """Wait until every worker process has carried out this request to reload the policies, and has loaded all
        versions of these models or failed to, and unloaded the one that is to be gone.

        Raises:
            InvalidRequest: a model has no version that every worker process could load.
            Unavailable: it takes longer than the timeout, and goes on.
        """

        def is_done(report: Report) -> bool:
            states = [state for model in models for state in report.progress.get(model, {}).values()]
            is_settled = not any(state in (*_UNSETTLED, PREPARED) for state in states)
            return report.reloaded >= number and is_settled and gone not in report.progress

        self._wait_until(is_done, "to reload the models")
        reports = (self._report(), *self._board.others())
        missing = [
            f"{model} ({self._reason(model)})"
            for model in models
            if any(State.AVAILABLE not in report.progress.get(model, {}).values() for report in reports)
        ]
        if missing:
            raise InvalidRequest(f"{len(missing)} model(s) did not become available: {', '.join(missing)}")

    def load_on_demand(self, model: str) -> None:
        """A request needs the model. Does not wait."""
        if self.requested(model) != "load":
            self._request(model, "load")
        self.wake.set()

    def keep_off_loops(self, model: str, version: int) -> None:
        """From now on no event loop of any worker process runs the version."""
        self._board.add_slow(SlowVersion(model, version))
        self.wake.set()

    def kept_off_loops(self) -> set[Key]:
        return {(slow.model, slow.version) for slow in self._board.slow()}

    def requested(self, model: str) -> Action | None:
        """The last request for the model that `new_requests` has returned."""
        request = self._requests.get(model)
        return request.action if request else None

    def new_requests(self) -> list[LoadRequest]:
        """Those since the last call."""
        new = [request for request in self._board.requests().values() if self._requests.get(request.model) != request]
        self._requests.update({request.model: request for request in new})
        return new

    def acknowledge(self, requests: list[LoadRequest]) -> None:
        """They have been carried out here."""
        self._acknowledged |= {request.model: request.number for request in requests}
        self.publish()

    def acknowledge_reload(self, number: int) -> None:
        """It has been carried out here."""
        if number != self._reloaded:
            self._reloaded = number
            self.publish()

    def promote(self) -> dict[Key, LoadedVersion | None]:
        """Make AVAILABLE what all worker processes have loaded, or failed to. Returns each with the version that it
        replaced, if any."""
        pending, replacements = self._pending(), self._registry.replacements()
        reports = self._board.others() if pending or replacements else []
        promoted: dict[Key, LoadedVersion | None] = {}
        self._update_ahead(pending, reports)
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
        """False if a worker process failed to load it."""
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

    def has_other_files(self, loaded: LoadedVersion) -> bool:
        """Whether another worker process has tried to load the version from other files."""
        if loaded.folder is None:
            return False
        tried = [report.folders.get(loaded.model, {}).get(loaded.version, ()) for report in self._board.others()]
        return any(identity != loaded.folder.identity for identities in tried for identity in identities)

    def is_first(self, message: str) -> bool:
        """Whether no other worker process has logged this message."""
        return self._board.is_first(message)

    def publish(self) -> None:
        self._board.publish(self._report())

    def others_serve(self) -> bool:
        return any(report.is_serving for report in self._board.others())

    def wait_until_all_agree(self, coordinate: Callable[[], None], pause_seconds: float) -> None:
        """Until the other worker processes have loaded what is loaded here, or the start timeout: a process that hangs
        must not hold up one that can answer. Longer for versions that the others answer from other files, since two
        processes must not answer differently."""
        deadline = time.monotonic() + self._start_timeout_seconds
        while (pending := self._pending()) and (
            time.monotonic() < deadline or any(map(self._waits_for_others, pending))
        ):
            self.wake.wait(pause_seconds)
            self.wake.clear()
            coordinate()

    def _command(self, model: str, action: Action, states: tuple[State, ...]) -> None:
        """Request it, and wait until every worker process has carried it out and all versions are in these states."""
        number = self._request(model, action)

        def is_done(report: Report) -> bool:
            is_acknowledged = report.acknowledged.get(model, 0) >= number
            return is_acknowledged and all(state in states for state in report.progress.get(model, {}).values())

        self._wait_until(is_done, f"to {action} {model}")

    def _wait_until(self, is_done: Callable[[Report], bool], what: str) -> None:
        """In all worker processes. Raises Unavailable on timeout."""
        self.wake.set()
        deadline = time.monotonic() + self._timeout_seconds
        while not all(map(is_done, (self._report(), *self._board.others()))):
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{what} takes longer than {self._timeout_seconds:g} s; it goes on, and GET /v1/models/<model> "
                    "tells how far it is"
                )
            time.sleep(COMMAND_POLL_SECONDS)

    def _reason(self, model: str) -> str:
        """Why the model has no AVAILABLE version."""
        statuses = self._registry.statuses().get(model, {})
        reasons = [f"version {version}: {status.error}" for version, status in statuses.items() if status.error]
        if not reasons and any(status.state is State.AVAILABLE for status in statuses.values()):
            return "not by every worker process; the log says why"
        return "; ".join(reasons) or self._registry.skipped.get(model, "no version was found")

    def _request(self, model: str, action: Action) -> int:
        try:
            return self._board.request(model, action)
        except OSError as error:
            raise Unavailable(f"the worker processes cannot be told to {action} {model}: {error.strerror}") from None

    def _pending(self) -> list[Key]:
        """What is loaded here and not yet AVAILABLE."""
        statuses = self._registry.statuses()
        keys = [(loaded.model, loaded.version) for loaded in self._registry.loaded()]
        return [key for key in keys if statuses[key[0]][key[1]].state is State.LOADING]

    def _update_ahead(self, pending: list[Key], reports: list[Report]) -> None:
        versions = {(loaded.model, loaded.version): loaded for loaded in self._registry.loaded()}
        now = time.monotonic()
        ahead = [key for key in pending if _is_ahead(versions[key], reports)]
        self._ahead_since = {key: self._ahead_since.get(key, now) for key in ahead}

    def _waits_for_others(self, key: Key) -> bool:
        since = self._ahead_since.get(key)
        return since is not None and time.monotonic() - since < self._timeout_seconds

    def _report(self) -> Report:
        pending = set(self._pending())
        progress = {
            model: {
                version: PREPARED if (model, version) in pending else str(status.state)
                for version, status in versions.items()
            }
            for model, versions in self._registry.statuses().items()
        }
        is_serving = self._registry.first_scan_done.is_set()
        return Report(progress, dict(self._acknowledged), is_serving, self._folders(), self._reloaded)

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


def _is_ahead(loaded: LoadedVersion, reports: list[Report]) -> bool:
    """Whether another worker process answers from other files, and has not tried these."""
    key, folder = (loaded.model, loaded.version), loaded.folder
    return folder is not None and any(
        report.of(*key) == State.AVAILABLE and not report.has_tried(*key, folder.identity) for report in reports
    )


def _next_number(before: bytes | None) -> bytes:
    return str(int(before or 0) + 1).encode()
