"""A version in its life: the states it goes through, and what it is once it is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from service.drift.monitor import Drift
from service.engines.base import Engine
from service.errors import InvalidRequest
from service.inference.batching import Arrays, Batcher, BatchLimits, Independence, TickBatcher, row_count
from service.inference.health import Health
from service.inference.pace import Pace
from service.inference.scores import label_output, label_scores
from service.lifecycle.repository import Folder
from service.serving_config import ServingConfig
from service.tensors.dtypes import Array
from service.tensors.image import takes_pictures
from service.tensors.signature import DEFAULT_SIGNATURE, Signature

UNBATCHED = BatchLimits(max_batch_size=1, timeout_seconds=0.0)


class State(StrEnum):
    """TensorFlow Serving's states."""

    START = "START"
    LOADING = "LOADING"
    AVAILABLE = "AVAILABLE"
    UNLOADING = "UNLOADING"
    END = "END"


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """`error` says why a version that ended could not be loaded; without one it was unloaded on demand. Of one that is
    AVAILABLE: why the folder that took the place of its own could not. `failed_folder`: its identity."""

    state: State
    error: str = ""
    failed_folder: str = ""
    engine: str = ""
    load_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    model: str
    version: int
    engine: Engine
    config: ServingConfig
    # Of threads: requests run one after the other, or together where their rows are independent. None: each by itself.
    batcher: Batcher | None = None
    # Of the event loop; None where rows that run together do not take clearly less than each alone.
    tick_batcher: TickBatcher | None = None
    limits: BatchLimits = UNBATCHED
    independence: Independence = field(default_factory=Independence)
    pace: Pace = field(default_factory=Pace)
    # How much less a row takes among eight than alone, and how many rows together pay, both measured by the version's
    # example. Infinity and None where that was not told: then batches are formed, as large as they may be.
    batch_gain_seconds: float = inf
    best_batch_size: int | None = None
    # None where there is no reference to compare with.
    drift: Drift | None = None
    health: Health = field(default_factory=Health)
    # Where it was loaded from.
    folder: Folder | None = None
    # Who gets a copy of what this one answers; set in what requests without a version get.
    shadow: "Shadow | None" = None
    # As metrics write it.
    version_text: str = field(init=False)
    _label_outputs: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "version_text", str(self.version))
        found = {name: label_output(signature, self.config) for name, signature in self.engine.signatures.items()}
        object.__setattr__(self, "_label_outputs", {name: output for name, output in found.items() if output})

    def signature(self, name: str) -> Signature:
        """Raises InvalidRequest where there is none of that name."""
        try:
            return self.engine.signatures[name]
        except KeyError:
            known = ", ".join(map(repr, sorted(self.engine.signatures)))
            raise InvalidRequest(f'Serving signature key "{name}" not found; {self.model} has {known}') from None

    def signature_to_run(self, asked: str) -> str:
        """The one whose run answers it: instead of the default one that which gives the outlier score, too."""
        score = self.config.outlier_score
        return score.signature if score is not None and asked == DEFAULT_SIGNATURE else asked

    def run_in_thread(self, signature_name: str, inputs: Arrays) -> dict[str, Array]:
        """Its pace is learned by it, and its health knows of it. For threads."""
        begun = self.pace.begin()
        outputs = self.health.run(self.engine.run, signature_name, inputs)
        self.pace.end(begun, row_count(inputs) or 1)
        return outputs

    def runs_in_batches(self, signature_name: str, rows: int) -> bool:
        """Whether so many rows of one request are more than it runs together. What runs so quickly that no batches are
        formed needs little memory for them."""
        is_batched = self.tick_batcher is not None or not self.pace.is_quick
        return rows > self.limits.max_batch_size and signature_name in self.independence.signatures and is_batched

    @property
    def takes_strings(self) -> bool:
        signatures = self.engine.signatures.values()
        return any(spec.dtype == "DT_STRING" for signature in signatures for spec in signature.inputs.values())

    @property
    def takes_pictures(self) -> bool:
        return any(takes_pictures(signature, self.config.image) for signature in self.engine.signatures.values())

    def label_output(self, signature_name: str) -> str | None:
        """The output that holds a score for each label: the only one whose rows are as long as the labels, or for two
        labels the only probability."""
        return self._label_outputs.get(signature_name)

    def label_scores(self, signature_name: str, outputs: Mapping[str, Array]) -> Array | None:
        """That output's scores, [rows, labels]; None where there is none, or a run gave another shape than the
        signature says, or no probability."""
        name = self._label_outputs.get(signature_name)
        if name is None:
            return None
        return label_scores(
            outputs[name], self.engine.signatures[signature_name].outputs[name], len(self.config.labels)
        )


@dataclass(frozen=True, slots=True)
class Shadow:
    """`share`: of how many requests it gets a copy."""

    loaded: LoadedVersion
    share: float
