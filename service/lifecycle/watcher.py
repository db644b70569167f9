"""The watcher: polls the repository, and loads and unloads versions until the registry matches it."""

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec

from service.engines.base import LoadError
from service.errors import AlreadyExists, NotFound, ServingError, Unavailable, without_paths
from service.inference.folder import Folder, fingerprint
from service.inference.version import LoadedVersion, State, VersionStatus
from service.lifecycle.loader import Loader, LoadQueue, Retries, newest_first
from service.lifecycle.policies import ModelPolicy, Policies
from service.lifecycle.policy_source import PolicySource
from service.lifecycle.registry import Registry
from service.lifecycle.repository import Key, Repository
from service.lifecycle.succession import Succession
from service.lifecycle.version_records import Deadly, VersionRecords, is_deadly
from service.lifecycle.workers import Agreement
from service.runtime.cgroup import usable_cores
from service.runtime.tuning import release_memory
from service.serving_config import InvalidServingConfig

# How often the other worker processes are polled while something is being loaded or unloaded.
EAGER_SECONDS = 0.05
# How often they are polled otherwise.
MAX_PAUSE_SECONDS = 1.0
MAX_LOADERS = 4

logger = logging.getLogger(__name__)


class Watcher:
    """The only one that writes to the registry, in its own thread and in those of the load queue."""

    def __init__(
        self,
        repository: Repository,
        registry: Registry,
        loader: Loader,
        poll_seconds: float,
        policies: PolicySource,
        agreement: Agreement,
        *,
        on_failure: Callable[[str, int], None] = lambda _model, _version: None,
        on_policies: Callable[[Policies], None] = lambda _policies: None,
        check_reload: Callable[[Policies], None] = lambda _policies: None,
        retries: Retries | None = None,
        loaders: int | None = None,
        records: VersionRecords | None = None,
        may_begin: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_failure`: called whenever a version fails to load. `on_policies`: called with those in force whenever
        they change. `check_reload`: raises ServingError for policies that `reload` must not carry out. `loaders`:
        threads that load. `may_begin`: whether the models folder holds what the first scan is to find."""
        self._repository = repository
        self._registry = registry
        self._loader = loader
        self._poll_seconds = poll_seconds
        self._source = policies
        self._agreement = agreement
        self._on_failure = on_failure
        self._on_policies = on_policies
        self._check_reload = check_reload
        self._retries = retries or Retries()
        self._records = records or VersionRecords()
        self._may_begin = may_begin
        self._succession = Succession(registry, agreement, self._retries, clock)
        self._queue = LoadQueue(self._load, loaders or min(usable_cores(), MAX_LOADERS))
        self._policies = Policies()
        self._wanted: dict[Key, Path] = {}
        # Of the files of what is to be loaded, as of the last poll.
        self._fingerprints: dict[Key, int] = {}
        # AVAILABLE, and to be loaded again, since the folder was replaced.
        self._replaced: set[Key] = set()
        # Versions whose engine is no longer referenced, and whether a replacement has their number. Appended to without
        # a lock, since the last reference may be dropped in any thread at any time.
        self._released: deque[tuple[Key, bool]] = deque()
        # Held while a version changes its state.
        self._lock = threading.Lock()
        self._is_stopped = False
        registry.when_wanted(self._agreement.load_on_demand)

    def start(self) -> None:
        self._agreement.publish()
        threading.Thread(target=self._watch, name="watcher", daemon=True).start()

    def stop(self) -> None:
        self._is_stopped = True
        self._agreement.wake.set()

    def load(self, model: str) -> None:
        """All versions that the policy selects, in all worker processes. Raises ServingError if that fails."""
        self._check_known(model)
        self._records.pardon(model)
        self._agreement.load(model)

    def unload(self, model: str) -> None:
        """All versions, in all worker processes, once their requests are done. They stay unloaded until `load`, or if
        the model is loaded on demand until its next request. Raises ServingError if that fails."""
        self._check_known(model)
        self._agreement.unload(model)

    def reload(self, policies: Policies) -> None:
        """Serve what they say, and nothing else, in all worker processes, until the next call or until the operator's
        file changes. Returns once every worker process has loaded all wanted versions, or failed to.

        Raises ServingError if a label may not name its version yet, and then nothing changes; if a model has no version
        that can be loaded; if it takes longer than the timeout; or if the shared memory is full.
        """
        self._check_reload(policies)
        number = self._request(lambda _before: policies)
        self._agreement.reload([name for name, policy in policies.models.items() if policy.load == "preload"], number)

    def add(self, model: str, policy: ModelPolicy) -> None:
        """Serve one more model, in all worker processes; `reload` for it alone. Raises AlreadyExists, or what `reload`
        raises; the model is not served then."""

        def with_model(before: Policies) -> Policies:
            if model in before.models:
                raise AlreadyExists(f"{model} is loaded already")
            return msgspec.structs.replace(before, models={**before.models, model: policy})

        number = self._request(with_model)
        try:
            self._agreement.reload([model], number)
        except ServingError:
            self.remove(model)
            raise

    def remove(self, model: str) -> None:
        """Serve one model less, in all worker processes. Returns once it is unloaded. Raises NotFound, or Unavailable
        if that takes longer than the timeout."""

        def without_model(before: Policies) -> Policies:
            if model not in before.models:
                raise NotFound(f"{model} is not loaded")
            others = {name: policy for name, policy in before.models.items() if name != model}
            return msgspec.structs.replace(before, models=others)

        self._agreement.reload([], self._request(without_model), gone=model)

    def scan(self) -> None:
        """Poll, and wait until everything found is loaded."""
        # What clients requested before this worker process started comes first.
        self._coordinate()
        self.poll()
        # The first versions serve while the others are still being loaded.
        while not self._queue.wait(EAGER_SECONDS):
            self._coordinate()
        self._coordinate()
        if not self._registry.first_scan_done.is_set():
            self._agreement.wait_until_all_agree(self._coordinate, EAGER_SECONDS)
            self._registry.end_first_scan()

    def poll(self) -> None:
        """Compare the repository with the registry; queue what is to be loaded, unload what is not wanted any more.

        The first poll loads what it finds. What appears later may still be being copied: it is loaded once two polls in
        a row find the same files. A version that failed is tried again after a while, and when its files change.
        """
        if State.UNLOADING in self._states():
            # A request that failed may keep its version alive in a reference cycle.
            release_memory()
        self._read_policies()
        self._repository.look_in(self._policies.places)
        request = self._source.number
        try:
            found = self._repository.versions()
        except OSError as error:
            logger.error("cannot read the models folder (what is loaded goes on serving): %s", error)
            return
        self._registry.skipped = self._repository.skipped
        # Once more: an operator who moves a label and then removes its old version must not lose the label.
        self._read_policies()
        is_first = not self._registry.first_scan_done.is_set()
        self._update_wanted(found, is_first=is_first)
        # Only of what is not loaded.
        fingerprints = {
            key: fingerprint(path)
            for key, path in self._wanted.items()
            if self._is_to_load(key) or self._state(key) is State.UNLOADING
        }
        settled = {
            key: files for key, files in fingerprints.items() if is_first or self._fingerprints.get(key) == files
        }
        self._fingerprints = fingerprints
        self._agreement.acknowledge_reload(request)
        due = [
            key
            for key, files in settled.items()
            if self._is_to_load(key) and self._is_allowed(key[0]) and self._retries.is_due(key, files)
        ]
        self._queue.add(newest_first([key for key in due if self._make_room(key)]))

    def _request(self, change: Callable[[Policies], Policies]) -> int:
        try:
            return self._source.request(change)
        except OSError as error:
            raise Unavailable(f"the worker processes cannot be told to reload: {error.strerror}") from None

    def _check_known(self, model: str) -> None:
        on_disk = {name for name, version in self._repository.versions()}
        if model not in on_disk and model not in self._registry.statuses():
            raise NotFound(f"no such model: {model}; GET /v1/models lists them")

    def _read_policies(self) -> None:
        if not self._source.read():
            return
        before, self._policies = self._policies, self._source.content
        self._registry.set_policies(self._policies, self._source.error)
        self._on_policies(self._policies)
        if self._source.error:
            logger.error("%s; what it said before goes on to count", self._source.error)
        for loaded in self._registry.loaded():
            batching = self._policies.of(loaded.model).batching
            if batching != before.of(loaded.model).batching:
                self._registry.replace_loaded(self._loader.with_batcher(loaded, batching))
        for model, version in self._registry.replacements():
            if self._policies.of(model).batching != before.of(model).batching:
                # It is loaded again, with the new batching.
                self._registry.drop_replacement(model, version)

    def _update_wanted(self, found: dict[Key, Path], *, is_first: bool) -> None:
        with self._lock:
            present = self._succession.with_absent(found)
            wanted = self._policies.wanted(present)
            if is_first:
                wanted |= self._serving_elsewhere() & found.keys()
            self._wanted = {key: present[key] for key in wanted}
            known = {(model, version) for model, versions in self._registry.statuses().items() for version in versions}
            for key in sorted(wanted - known):
                self._add(key)
            for key in sorted(known - wanted):
                self._unload_unwanted(key, is_on_disk=key in found)
            for key in wanted & known:
                # It may have waited for a successor while it was not wanted.
                self._registry.hold(*key, frozenset())
            self._replaced = self._succession.replaced(self._wanted)

    def _serving_elsewhere(self) -> set[Key]:
        """What other worker processes serve. A new process loads it even if it is not wanted: the others may keep it
        because its successor cannot be loaded."""
        serving = self._agreement.available_elsewhere()
        return {key for key in serving if self._policies.of(key[0]).replace == "load_first"}

    def _add(self, key: Key) -> None:
        """A version that is wanted and not loaded."""
        is_ended = self._agreement.requested(key[0]) == "unload" and self._policies.of(key[0]).load == "preload"
        self._registry.set_status(*key, VersionStatus(State.END if is_ended else State.START))

    def _unload_unwanted(self, key: Key, *, is_on_disk: bool) -> None:
        """Unless it still answers until its successor does."""
        model, version = key
        wanted = {number for name, number in self._wanted if name == model}
        policy = self._policies.of(model)
        if version in self._registry.traffic(model).versions and self._succession.stays(
            key, policy, wanted, is_on_disk
        ):
            return
        if self._state(key) is not State.UNLOADING:
            logger.info("%s version %d %s", *key, "is not wanted any more" if is_on_disk else "has vanished")
            self._unload(key)

    def _is_to_load(self, key: Key) -> bool:
        return self._is_idle(key) or (key in self._replaced and self._state(key) is State.AVAILABLE)

    def _is_idle(self, key: Key) -> bool:
        return self._state(key) in (State.START, State.END)

    def _is_allowed(self, model: str) -> bool:
        """Whether the model's versions are to be loaded now."""
        requested = self._agreement.requested(model)
        if requested is not None:
            return requested == "load"
        # A model on demand that is in use gets its successors, too.
        return self._policies.of(model).load == "preload" or bool(self._registry.traffic(model).versions)

    def _make_room(self, key: Key) -> bool:
        """With `unload_first`: unload what the version replaces. False while that is still in memory."""
        model, version = key
        if self._policies.of(model).replace == "load_first":
            return True
        with self._lock:
            for number, successors in self._registry.held(model).items():
                if version in successors:
                    logger.info("%s version %d makes room for version %d", model, number, version)
                    self._unload((model, number))
            if self._state(key) is State.AVAILABLE:
                logger.info("%s version %d makes room for what its folder is now", model, version)
                self._unload(key)
        return all(status.state is not State.UNLOADING for status in self._registry.statuses()[model].values())

    def _load(self, key: Key) -> None:
        with self._lock:
            if key not in self._wanted or not self._is_to_load(key):
                return
            path, files = self._wanted[key], self._fingerprints.get(key, 0)
            # It may have been queued again by a poll just before its last load failed.
            if not self._retries.is_due(key, files):
                return
            if self._is_idle(key):
                self._registry.set_status(*key, VersionStatus(State.LOADING))
        started = time.monotonic()
        folder: Folder | None = None
        try:
            folder = _open(path)
            path = folder.path
            batching = self._policies.of(key[0]).batching
            is_serving = self._registry.first_scan_done.is_set()
            with self._records.loading(*key, files, is_serving=is_serving):
                loaded = self._loader.load(*key, path, batching)
            if key in self._agreement.kept_off_loops():
                loaded.pace.keep_off_loop()
            if folder.is_replaced(path):
                raise LoadError("its folder was replaced while it was being loaded")
        # Whatever goes wrong in one model, the others must be loaded and served.
        except Exception as error:
            is_expected = isinstance(error, (LoadError, InvalidServingConfig))
            message = without_paths(str(error), path) or type(error).__name__
            reason = self._failed(key, files, message, error)
            logger.error("%s version %d cannot be loaded: %s", *key, reason, exc_info=None if is_expected else error)
            self._on_failure(*key)
            self._finish(key, VersionStatus(State.END, reason, folder.identity if folder else ""))
        else:
            self._retries.forget(key)
            seconds = time.monotonic() - started
            status = VersionStatus(State.LOADING, engine=loaded.engine.name, load_seconds=seconds)
            self._finish(key, status, replace(loaded, folder=folder))

    def _failed(self, key: Key, files: int, message: str, error: Exception) -> str:
        """The reason, with the time of the next try if there is one."""
        if not isinstance(error, Deadly):
            return self._retries.failed(key, files, message)
        self._retries.never_retry(key, files)
        return message

    def _finish(self, key: Key, status: VersionStatus, loaded: LoadedVersion | None = None) -> None:
        with self._lock:
            # In any other state it has vanished or been unloaded meanwhile.
            if self._state(key) is State.LOADING:
                self._registry.set_status(*key, status, loaded)
            elif key in self._replaced and self._state(key) is State.AVAILABLE:
                self._replaced.discard(key)
                if loaded is None:
                    self._registry.set_failure(*key, status.error, status.failed_folder)
                else:
                    self._registry.set_replacement(*key, status, loaded)
        self._agreement.wake.set()

    def _coordinate(self) -> None:
        """Carry out load requests, report to the other worker processes, and promote what all of them have loaded."""
        has_reload = self._source.has_request()
        requests = self._agreement.new_requests()
        for request in requests:
            with self._lock:
                for version in self._registry.statuses().get(request.model, {}):
                    key = (request.model, version)
                    self._retries.forget(key)
                    if request.action == "unload":
                        self._unload(key)
                    elif self._state(key) is State.END:
                        self._add(key)
        if requests or has_reload:
            self.poll()
        if self._released:
            self._end_released()
        self._keep_off_loop()
        self._unload_deadly()
        self._agreement.acknowledge(requests)
        for key, before in self._agreement.promote().items():
            status = self._registry.statuses()[key[0]][key[1]]
            what = "AVAILABLE" if before is None else "replaced"
            logger.info(
                "%s version %d is %s (engine %s, loaded in %.2f s)", *key, what, status.engine, status.load_seconds
            )
            if before is not None:
                self._end_when_released(before, key, is_replaced=True)

    def _keep_off_loop(self) -> None:
        slow = self._agreement.kept_off_loops()
        for loaded in self._registry.loaded() if slow else ():
            if (loaded.model, loaded.version) in slow:
                loaded.pace.keep_off_loop()

    def _unload_deadly(self) -> None:
        for loaded in self._registry.loaded():
            if is_deadly(loaded.engine):
                logger.error(
                    "%s version %d is unloaded: other worker processes died of it", loaded.model, loaded.version
                )
                with self._lock:
                    self._unload((loaded.model, loaded.version))
        for (model, version), loaded in self._registry.replacements().items():
            if is_deadly(loaded.engine):
                self._registry.drop_replacement(model, version)

    def _unload(self, key: Key) -> None:
        """It is UNLOADING until the last request that uses it is done."""
        if self._state(key) is State.UNLOADING:
            return
        if (loaded := self._registry.retire(*key)) is None:
            self._end(key)
            return
        self._end_when_released(loaded, key, is_replaced=False)

    def _end_when_released(self, loaded: LoadedVersion, key: Key, *, is_replaced: bool) -> None:
        finalizer = weakref.finalize(loaded.engine, self._released.append, (key, is_replaced))
        finalizer.atexit = False

    def _end_released(self) -> None:
        has_waiting_successor = False
        while self._released:
            key, is_replaced = self._released.popleft()
            if is_replaced:
                logger.info("%s version %d from its old folder is unloaded", *key)
                continue
            with self._lock:
                self._end(key)
            logger.info("%s version %d is unloaded", *key)
            has_waiting_successor |= self._policies.of(key[0]).replace == "unload_first"
        release_memory()
        if has_waiting_successor:
            self.poll()

    def _end(self, key: Key) -> None:
        self._retries.forget(key)
        if key in self._wanted:
            self._add(key)
        else:
            self._registry.remove(*key)

    def _watch(self) -> None:
        next_poll = time.monotonic()
        while not self._is_stopped:
            self._agreement.wake.clear()
            try:
                if not self._registry.first_scan_done.is_set():
                    if self._may_begin():
                        self.scan()
                elif time.monotonic() >= next_poll:
                    self.poll()
                self._coordinate()
            # The machine's fault: too many open files, a failing disk.
            except OSError as error:
                logger.error("looking through the models folder failed; trying again: %s", error)
            except Exception:
                logger.exception("looking through the models folder failed; trying again")
            now = time.monotonic()
            if now >= next_poll:
                next_poll = now + self._poll_seconds
            # Clients of other worker processes may request something.
            self._agreement.wake.wait(min(self._pause(next_poll - now), MAX_PAUSE_SECONDS))

    def _pause(self, until_next_poll: float) -> float:
        is_under_way = (
            not self._registry.first_scan_done.is_set()
            or self._registry.replacements()
            or not self._states().isdisjoint((State.LOADING, State.UNLOADING))
        )
        return min(until_next_poll, EAGER_SECONDS) if is_under_way else until_next_poll

    def _state(self, key: Key) -> State | None:
        status = self._registry.statuses().get(key[0], {}).get(key[1])
        return status.state if status else None

    def _states(self) -> set[State]:
        return {status.state for versions in self._registry.statuses().values() for status in versions.values()}


def _open(path: Path) -> Folder:
    try:
        return Folder(path)
    except OSError as error:
        raise LoadError(f"its folder cannot be opened: {error.strerror}") from error
