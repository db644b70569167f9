"""The loader: reads a version from disk, warms it up and makes its batchers. Also the queue of loads, and retries."""

import logging
import math
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from service.drift.card import read_card
from service.drift.monitor import Drift
from service.engines.base import Engine, LoadError
from service.inference.batching import Batcher, BatchLimits, BatchObserver, Independence, TickBatcher, is_batchable
from service.inference.health import Health
from service.inference.pace import Pace
from service.inference.scores import label_mismatch
from service.inference.version import LoadedVersion
from service.lifecycle.policies import Batching
from service.lifecycle.repository import Key
from service.lifecycle.warm_up import DecodeBody, WarmUp
from service.serving_config import ServingConfig, read_serving_config

# What a row must gain in a batch on the event loop. Joining rows and splitting outputs takes about half of it.
MIN_GAIN_SECONDS = 20e-6

MIN_RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 300.0

LoadEngine = Callable[[Path, ServingConfig], Engine]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loader:
    """`observe`, `watch` and `new_health` make a version's batch observer, drift monitor and health. `limits`: for
    models whose policy has no batching. `decode`: reads the example of a version. `independent_rows`: of every model
    whose policy does not say otherwise, proved or not. `warms_up`: whether versions are run before they serve."""

    load_engine: LoadEngine
    observe: Callable[[str, int], BatchObserver]
    limits: BatchLimits
    decode: DecodeBody
    watch: Callable[[LoadedVersion, Path], Drift | None] = lambda _loaded, _path: None
    new_health: Callable[[str, int], Health] = lambda _model, _version: Health()
    independent_rows: bool = False
    warms_up: bool = True

    def load(self, model: str, version: int, path: Path, batching: Batching) -> LoadedVersion:
        """
        Raises:
            LoadError: also if labels and scores differ in number.
            InvalidServingConfig: serving.json is wrong.
            Exception: a model may do anything.
        """
        name = f"{model} version {version}"
        try:
            config = read_serving_config(path)
            engine = self.load_engine(path, config)
            if mismatch := label_mismatch(engine.signatures, config):
                raise LoadError(mismatch)
            signatures = self._independent_signatures(engine, config, batching)
            if batching.max_batch_size is not None and not signatures:
                logger.warning(
                    "%s: max_batch_size is set for it, but nothing says that its rows are independent: no batches are "
                    "formed (independent_rows = true in models.toml says so)",
                    name,
                )
            warm_up = WarmUp(
                engine,
                config,
                path,
                name,
                signatures,
                self._max_batch_size(batching),
                self.decode,
                finds_batch_size=batching.max_batch_size is None,
            )
            if self.warms_up:
                warm_up.run()
        except OSError as error:
            raise LoadError(_unreadable(error, path)) from error
        loaded = LoadedVersion(
            model,
            version,
            engine,
            config,
            independence=Independence(signatures, self._on_contradiction(model, version)),
            pace=Pace(warm_up.row_seconds, time.thread_time if engine.runs_on_caller else None),
            batch_gain_seconds=warm_up.batch_gain_seconds,
            best_batch_size=warm_up.best_batch_size,
            card=read_card(path),
            health=self.new_health(model, version),
        )
        return self.with_batcher(replace(loaded, drift=self.watch(loaded, path)), batching)

    def with_batcher(self, loaded: LoadedVersion, batching: Batching) -> LoadedVersion:
        """The version with the batchers that the policy asks for."""
        engine, limits = loaded.engine, self._limits(loaded, batching)
        observer = self.observe(loaded.model, loaded.version)
        loaded.independence.declare(self._independent_signatures(engine, loaded.config, batching))
        loaded = replace(loaded, limits=limits, tick_batcher=None)
        common = engine.signatures, loaded.independence
        batcher = Batcher(loaded.run_in_thread, *common, limits, observer, lambda: loaded.pace.usual_run)
        if loaded.batch_gain_seconds > MIN_GAIN_SECONDS and loaded.independence.signatures:
            tick_batcher = TickBatcher(engine.run, *common, limits.max_batch_size, observer)
            return replace(loaded, batcher=batcher, tick_batcher=tick_batcher)
        return replace(loaded, batcher=batcher)

    def _independent_signatures(self, engine: Engine, config: ServingConfig, batching: Batching) -> list[str]:
        """The signatures whose rows may be batched. The policy overrides the setting, and that the proof in
        serving.json."""
        proved: set[str] = set(config.independent_rows.signatures) if config.independent_rows else set()
        if batching.independent_rows is not None:
            proved = set(engine.signatures) if batching.independent_rows else set()
        elif self.independent_rows:
            proved = set(engine.signatures)
        if self._max_batch_size(batching) == 1:
            return []
        return [name for name, signature in engine.signatures.items() if name in proved and is_batchable(signature)]

    def _on_contradiction(self, model: str, version: int) -> Callable[[str], None]:
        observer = self.observe(model, version)

        def on_contradiction(signature: str) -> None:
            observer.contradicted()
            logger.error(
                "%s version %d: the rows of %r are said to be independent, and its outputs do not have a row for each "
                "of them: from now on its requests are run one by one",
                *(model, version, signature),
            )

        return on_contradiction

    def _max_batch_size(self, batching: Batching) -> int:
        return batching.max_batch_size or self.limits.max_batch_size

    def _limits(self, loaded: LoadedVersion, batching: Batching) -> BatchLimits:
        """A size in the policy is used as it is; the setting is only an upper bound."""
        limits = replace(self.limits, max_batch_size=self._max_batch_size(batching))
        if batching.max_batch_size is None and loaded.best_batch_size is not None:
            limits = replace(limits, max_batch_size=loaded.best_batch_size)
        if batching.batch_timeout_micros is not None:
            limits = replace(limits, timeout_seconds=batching.batch_timeout_micros / 1e6)
        return limits


class LoadQueue:
    """Loads versions in a few threads. Threads run only while there is something to load; they are daemons, so the
    process ends without waiting for them."""

    def __init__(self, load: Callable[[Key], None], threads: int) -> None:
        """`load` must not raise."""
        self._load = load
        self._threads = threads
        self._changed = threading.Condition()
        self._waiting: deque[Key] = deque()
        self._under_way: set[Key] = set()
        self._running = 0

    def add(self, keys: Iterable[Key]) -> None:
        """In this order. Keys that are queued or being loaded are ignored."""
        with self._changed:
            for key in keys:
                if key not in self._under_way:
                    self._under_way.add(key)
                    self._waiting.append(key)
            for _ in range(min(self._threads - self._running, len(self._waiting))):
                self._running += 1
                threading.Thread(target=self._run, name="loader", daemon=True).start()

    def wait(self, seconds: float | None = None) -> bool:
        """Until the queue is empty and nothing is being loaded. False on timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._under_way, seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._running -= 1
                    return
                key = self._waiting.popleft()
            self._load(key)
            with self._changed:
                self._under_way.discard(key)
                self._changed.notify_all()


def newest_first(keys: list[Key]) -> list[Key]:
    """First the newest version of every model, which answers most requests; then the second newest; and so on."""
    newer: Counter[str] = Counter()
    ranked = []
    for model, version in sorted(keys, key=lambda key: -key[1]):
        ranked.append((newer[model], model, version))
        newer[model] += 1
    return [(model, version) for _, model, version in sorted(ranked)]


@dataclass(frozen=True, slots=True)
class Failure:
    """`fingerprint`: of the version's files. `due`: when they are tried again."""

    fingerprint: int
    tries: int
    due: float


@dataclass
class Retries:
    """When a version that failed to load is tried again: after `pause_seconds`, or if that is 0 after 1, 2, 4 ... 300
    seconds; at once if its files change. `max_retries`: after the first failure; None: no limit."""

    clock: Callable[[], float] = time.monotonic
    max_retries: int | None = None
    pause_seconds: float = 0
    _failures: dict[Key, Failure] = field(default_factory=dict)

    def failed(self, key: Key, fingerprint: int, reason: str) -> str:
        """The reason, with the number of tries and the time of the next one."""
        before = self._failures.get(key)
        tries = before.tries + 1 if before and before.fingerprint == fingerprint else 1
        times = "once" if tries == 1 else f"{tries} times"
        if self.max_retries is not None and tries > self.max_retries:
            self._failures[key] = Failure(fingerprint, tries, math.inf)
            return f"{reason} (tried {times}; next when its files change)"
        pause = self.pause_seconds or min(MIN_RETRY_SECONDS * 2 ** min(tries - 1, 30), MAX_RETRY_SECONDS)
        self._failures[key] = Failure(fingerprint, tries, self.clock() + pause)
        next_try = time.strftime("%H:%M:%S UTC", time.gmtime(time.time() + pause))
        return f"{reason} (tried {times}; next at {next_try}, or when its files change)"

    def never_retry(self, key: Key, fingerprint: int) -> None:
        """Until its files change, or `forget`."""
        self._failures[key] = Failure(fingerprint, 1, math.inf)

    def is_due(self, key: Key, fingerprint: int) -> bool:
        failure = self._failures.get(key)
        return failure is None or failure.fingerprint != fingerprint or self.clock() >= failure.due

    def has_failed(self, key: Key) -> bool:
        """Even if its files have changed since."""
        return key in self._failures

    def forget(self, key: Key) -> None:
        self._failures.pop(key, None)


def _unreadable(error: OSError, version: Path) -> str:
    """Names the file without the folders of this machine, since clients read it."""
    file = Path(os.fsdecode(error.filename or "one of its files"))
    name = file.relative_to(version) if file.is_relative_to(version) else file.name
    return f"{name} cannot be read: {error.strerror or type(error).__name__}"
