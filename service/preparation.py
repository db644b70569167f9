"""Loading a version and warming it up, before anybody is answered by it."""

import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path

from service.batch import BatchObserver
from service.batcher import Batcher, BatchLimits
from service.drift import Drift
from service.engines import Engine, LoadError
from service.health import Health
from service.model_policies import Batching
from service.paying_rows import paying_rows
from service.serving_config import ServingConfig, read_serving_config
from service.turn_batcher import TurnBatcher
from service.version import LoadedVersion
from service.warm_up import replay, warm_up, warm_up_sizes

# A version that answers one row within it is run by the server's event loop itself.
QUICK_SECONDS = 0.001
# To join a row with others and to split the answers takes about half of that.
GAIN_SECONDS = 20e-6
TRIED_ROWS = 8

# How many seconds a row takes; None where the version is no more.
Probe = Callable[[], float | None]
LoadEngine = Callable[[Path, ServingConfig], Engine]


@dataclass(frozen=True, slots=True)
class Preparation:
    """`limits` are for models whose policy says nothing about batching; `observe` gives a version's observer, `watch`
    who watches it for drift, `new_health` its health."""

    load_engine: LoadEngine
    observe: Callable[[str, int], BatchObserver]
    limits: BatchLimits
    watch: Callable[[LoadedVersion, Path], Drift | None] = lambda _loaded, _path: None
    new_health: Callable[[str, int, Probe], Health] = lambda _model, _version, _probe: Health()

    def prepare(self, model: str, version: int, path: Path, batching: Batching) -> LoadedVersion:
        """Raises LoadError, InvalidServingConfig, and whatever a stranger's model does wrong."""
        try:
            config = read_serving_config(path)
            engine = self.load_engine(path, config)
            replay(engine, path)
        except OSError as error:
            raise LoadError(_unreadable(error, path)) from error
        row_seconds = warm_up(engine)
        gain = row_seconds - warm_up(engine, TRIED_ROWS) / TRIED_ROWS if row_seconds < QUICK_SECONDS else 0.0
        most = None
        if batching.max_batch_size is None:
            most = paying_rows(engine, f"{model} version {version}", self.limits.max_batch_size, row_seconds)
        health = self.new_health(model, version, partial(_row_seconds, weakref.ref(engine)))
        loaded = LoadedVersion(
            model,
            version,
            engine,
            config,
            row_seconds=row_seconds,
            batch_gain_seconds=gain,
            paying_rows=most,
            health=health,
        )
        if row_seconds >= QUICK_SECONDS or gain > GAIN_SECONDS:
            warm_up_sizes(engine, self._limits(loaded, batching).max_batch_size, row_seconds)
        return self.with_batcher(replace(loaded, drift=self.watch(loaded, path)), batching)

    def with_batcher(self, loaded: LoadedVersion, batching: Batching) -> LoadedVersion:
        engine, limits = loaded.engine, self._limits(loaded, batching)
        observer = self.observe(loaded.model, loaded.version)
        wants_batches = (batching.max_batch_size or self.limits.max_batch_size) > 1
        loaded = replace(loaded, limits=limits, splits=wants_batches)
        if loaded.row_seconds >= QUICK_SECONDS:
            run = partial(loaded.health.run, engine.run)
            return replace(loaded, batcher=Batcher(run, engine.signatures, limits, observer))
        if loaded.batch_gain_seconds > GAIN_SECONDS:
            batcher = TurnBatcher(engine.run, engine.signatures, limits.max_batch_size, observer)
            return replace(loaded, turn_batcher=batcher)
        return loaded

    def off_loop(self, loaded: LoadedVersion, batching: Batching) -> LoadedVersion:
        """The same for threads to run, whatever its warm-up took."""
        return self.with_batcher(replace(loaded, row_seconds=inf, turn_batcher=None), batching)

    def _limits(self, loaded: LoadedVersion, batching: Batching) -> BatchLimits:
        """What the policy names counts as it stands; the setting is the most that anyone gets."""
        limits = self.limits
        if batching.max_batch_size is not None:
            limits = replace(limits, max_batch_size=batching.max_batch_size)
        elif loaded.paying_rows is not None:
            limits = replace(limits, max_batch_size=loaded.paying_rows)
        if batching.batch_timeout_micros is not None:
            limits = replace(limits, timeout_seconds=batching.batch_timeout_micros / 1e6)
        return limits


def _unreadable(error: OSError, version: Path) -> str:
    """Which file, and why; without the folders of this machine, for clients read it."""
    file = Path(os.fsdecode(error.filename or "one of its files"))
    name = file.relative_to(version) if file.is_relative_to(version) else file.name
    return f"{name} cannot be read: {error.strerror or type(error).__name__}"


def _row_seconds(reference: "weakref.ref[Engine]") -> float | None:
    engine = reference()
    return None if engine is None else warm_up(engine)
