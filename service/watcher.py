"""The watcher: polls the repository and reconciles the registry with it. The only one who loads versions."""

import logging
import threading
import time
from collections.abc import Callable

from service.batcher import Batcher
from service.engines import Engine, LoadError
from service.registry import LoadedVersion, Registry, State, VersionStatus
from service.repository import Repository, VersionOnDisk
from service.serving_config import InvalidServingConfig, ServingConfig, read_serving_config
from service.warm_up import warm_up

# A version that answers one row within it is run by the server's event loop itself.
QUICK_SECONDS = 0.001

logger = logging.getLogger(__name__)

Key = tuple[str, int]
LoadEngine = Callable[[VersionOnDisk, ServingConfig], Engine]
MakeBatcher = Callable[[str, int, Engine], Batcher]


class Watcher:
    def __init__(
        self,
        repository: Repository,
        registry: Registry,
        load_engine: LoadEngine,
        make_batcher: MakeBatcher,
        poll_seconds: float,
    ) -> None:
        self._repository = repository
        self._registry = registry
        self._load_engine = load_engine
        self._make_batcher = make_batcher
        self._poll_seconds = poll_seconds
        self._seen: dict[Key, VersionOnDisk] = {}
        self._tried: dict[Key, VersionOnDisk] = {}
        self._stop = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._watch, name="watcher", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def scan(self) -> None:
        """One look at the repository.

        What lies there at the first look is loaded at once. What appears later may still be being copied: it is
        loaded once two looks in a row find the same files. A failed version is tried again when its files change.
        """
        try:
            found = self._repository.versions()
        except OSError as error:
            logger.error("cannot read the models folder (what is loaded goes on serving): %s", error)
            return
        known = {(model, version) for model, versions in self._registry.statuses().items() for version in versions}
        for key in sorted(known - found.keys()):
            self._registry.remove(*key)
            self._tried.pop(key, None)
            logger.info("%s version %d has vanished: unloaded", *key)
        for key in sorted(found.keys() - known):
            self._registry.set_status(*key, VersionStatus(State.START))
        # Newest first: the version that unversioned requests want is there soonest.
        for key, on_disk in sorted(found.items(), key=lambda item: (item[0][0], -item[0][1])):
            settled = not self._registry.first_scan_done.is_set() or self._seen.get(key) == on_disk
            if settled and self._is_due(key, on_disk):
                self._load(key, on_disk)
        self._seen = found
        self._registry.first_scan_done.set()

    def _is_due(self, key: Key, on_disk: VersionOnDisk) -> bool:
        model, version = key
        state = self._registry.statuses()[model][version].state
        return state is State.START or (state is State.END and self._tried[key] != on_disk)

    def _load(self, key: Key, on_disk: VersionOnDisk) -> None:
        self._tried[key] = on_disk
        self._registry.set_status(*key, VersionStatus(State.LOADING))
        started = time.monotonic()
        try:
            config = read_serving_config(on_disk.path)
            engine = self._load_engine(on_disk, config)
            batcher = None if warm_up(engine) < QUICK_SECONDS else self._make_batcher(*key, engine)
            loaded = LoadedVersion(*key, engine, config, batcher)
        # Whatever a stranger's model does wrong, the others must go on being loaded and watched.
        except Exception as error:
            expected = isinstance(error, (LoadError, InvalidServingConfig))
            logger.error("%s version %d cannot be loaded: %s", *key, error, exc_info=None if expected else error)
            self._registry.set_status(*key, VersionStatus(State.END, error=str(error) or type(error).__name__))
            return
        seconds = time.monotonic() - started
        status = VersionStatus(State.AVAILABLE, engine=loaded.engine.name, load_seconds=seconds)
        self._registry.set_status(*key, status, loaded)
        logger.info("%s version %d is AVAILABLE (engine %s, loaded in %.2f s)", *key, status.engine, seconds)

    def _watch(self) -> None:
        while True:
            try:
                self.scan()
            except Exception:
                logger.exception("looking through the models folder failed; trying again")
            if self._stop.wait(self._poll_seconds):
                return
