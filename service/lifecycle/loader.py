"""Loading a version and warming it up, before anybody is answered by it."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from service.drift.monitor import Drift
from service.engines.base import Engine, LoadError
from service.inference.batch import BatchObserver, Independence, is_batchable
from service.inference.batching import Batcher, BatchLimits
from service.inference.health import Health
from service.inference.label_scores import label_misfit
from service.inference.pace import Pace
from service.inference.tick_batcher import TurnBatcher
from service.inference.version import LoadedVersion
from service.lifecycle.policies import Batching
from service.lifecycle.warm_up import WarmUp
from service.serving_config import ServingConfig, read_serving_config

# To join a row with others and to split the answers takes about half of that.
GAIN_SECONDS = 20e-6

LoadEngine = Callable[[Path, ServingConfig], Engine]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Preparation:
    """`limits` are for models whose policy says nothing about batching; `observe` gives a version's observer, `watch`
    who watches it for drift, `new_health` its health."""

    load_engine: LoadEngine
    observe: Callable[[str, int], BatchObserver]
    limits: BatchLimits
    watch: Callable[[LoadedVersion, Path], Drift | None] = lambda _loaded, _path: None
    new_health: Callable[[str, int], Health] = lambda _model, _version: Health()

    def prepare(self, model: str, version: int, path: Path, batching: Batching) -> LoadedVersion:
        """Raises LoadError, also where the labels are not as many as the scores; InvalidServingConfig; and whatever a
        stranger's model does wrong."""
        name = f"{model} version {version}"
        try:
            config = read_serving_config(path)
            engine = self.load_engine(path, config)
            if misfit := label_misfit(engine.signatures, config):
                raise LoadError(misfit)
            signatures = self._independent_signatures(engine, config, batching)
            if batching.max_batch_size is not None and not signatures:
                logger.warning(
                    "%s: max_batch_size is set for it, but nothing says that its rows are independent: no batches are "
                    "formed (independent_rows = true in models.toml says so)",
                    name,
                )
            max_rows = self._max_batch_size(batching)
            warm_up = WarmUp(engine, config, path, name, signatures, max_rows, judges=batching.max_batch_size is None)
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
            paying_rows=warm_up.paying_rows,
            health=self.new_health(model, version),
        )
        return self.with_batcher(replace(loaded, drift=self.watch(loaded, path)), batching)

    def with_batcher(self, loaded: LoadedVersion, batching: Batching) -> LoadedVersion:
        """The version as the policy wants it batched."""
        engine, limits = loaded.engine, self._limits(loaded, batching)
        observer = self.observe(loaded.model, loaded.version)
        loaded.independence.say(self._independent_signatures(engine, loaded.config, batching))
        loaded = replace(loaded, limits=limits, turn_batcher=None)
        common = engine.signatures, loaded.independence
        batcher = Batcher(loaded.run_in_thread, *common, limits, observer, lambda: loaded.pace.usual_run)
        if loaded.batch_gain_seconds > GAIN_SECONDS and loaded.independence.signatures:
            turn_batcher = TurnBatcher(engine.run, *common, limits.max_batch_size, observer)
            return replace(loaded, batcher=batcher, turn_batcher=turn_batcher)
        return replace(loaded, batcher=batcher)

    def _independent_signatures(self, engine: Engine, config: ServingConfig, batching: Batching) -> list[str]:
        """Those whose rows may be run together and apart: the operator's word counts more than the version's own."""
        said: set[str] = set(config.independent_rows.signatures) if config.independent_rows else set()
        if batching.independent_rows is not None:
            said = set(engine.signatures) if batching.independent_rows else set()
        if self._max_batch_size(batching) == 1:
            return []
        return [name for name, signature in engine.signatures.items() if name in said and is_batchable(signature)]

    def _on_contradiction(self, model: str, version: int) -> Callable[[str], None]:
        observer = self.observe(model, version)

        def tell(signature: str) -> None:
            observer.contradicted()
            logger.error(
                "%s version %d: the rows of %r are said to be independent, and its outputs do not have a row for each "
                "of them: from now on its requests are run one by one",
                *(model, version, signature),
            )

        return tell

    def _max_batch_size(self, batching: Batching) -> int:
        return batching.max_batch_size or self.limits.max_batch_size

    def _limits(self, loaded: LoadedVersion, batching: Batching) -> BatchLimits:
        """What the policy names counts as it stands; the setting is the most that anyone gets."""
        limits = replace(self.limits, max_batch_size=self._max_batch_size(batching))
        if batching.max_batch_size is None and loaded.paying_rows is not None:
            limits = replace(limits, max_batch_size=loaded.paying_rows)
        if batching.batch_timeout_micros is not None:
            limits = replace(limits, timeout_seconds=batching.batch_timeout_micros / 1e6)
        return limits


def _unreadable(error: OSError, version: Path) -> str:
    """Which file, and why; without the folders of this machine, for clients read it."""
    file = Path(os.fsdecode(error.filename or "one of its files"))
    name = file.relative_to(version) if file.is_relative_to(version) else file.name
    return f"{name} cannot be read: {error.strerror or type(error).__name__}"
