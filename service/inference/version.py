"""Versions: their states, and what a loaded one is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from service.drift.card import NO_CARD, Card
from service.drift.monitor import Drift
from service.engines.base import Engine
from service.errors import InvalidRequest
from service.inference.batching import Arrays, Batcher, BatchLimits, Independence, TickBatcher, row_count
from service.inference.folder import Folder
from service.inference.health import Health
from service.inference.pace import Pace
from service.inference.scores import label_output, label_scores
from service.serving_config import ServingConfig
from service.tensors.dtypes import Array
from service.tensors.image import takes_pictures
from service.tensors.signature import DEFAULT_SIGNATURE, Signature

UNBATCHED = BatchLimits(max_batch_size=1, timeout_seconds=0.0)


class UnknownSignature(InvalidRequest):
    # FAILED_PRECONDITION, as in TensorFlow Serving.
    grpc_status = 9


class State(StrEnum):
    """The states of a version, as TensorFlow Serving names them."""

    START = "START"
    LOADING = "LOADING"
    AVAILABLE = "AVAILABLE"
    UNLOADING = "UNLOADING"
    END = "END"


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """`error`: why a version in state END could not be loaded; empty where it was unloaded on demand. For one that is
    AVAILABLE: why the folder that replaced its own could not. `failed_folder`: the identity of that folder."""

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
    # For threads. None: every request runs by itself.
    batcher: Batcher | None = None
    # For the event loop. None where rows in a batch take about as long as alone.
    tick_batcher: TickBatcher | None = None
    limits: BatchLimits = UNBATCHED
    independence: Independence = field(default_factory=Independence)
    pace: Pace = field(default_factory=Pace)
    # How much less time a row takes among eight than alone, and how many rows make the best batch, both measured with
    # the version's example. Infinity and None where unknown: then batches are formed, as large as they may be.
    batch_gain_seconds: float = inf
    best_batch_size: int | None = None
    card: Card = NO_CARD
    # None without a reference.
    drift: Drift | None = None
    health: Health = field(default_factory=Health)
    # The folder that it was loaded from.
    folder: Folder | None = None
    # The version that gets copies of its requests; set for the version that requests without one get.
    shadow: "Shadow | None" = None
    # The version as metrics write it.
    version_text: str = field(init=False)
    # Tells the version and its labels from all others, the same in every worker process: they inherit the seed of hash.
    digest: int = field(init=False)
    _label_outputs: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "version_text", str(self.version))
        object.__setattr__(self, "digest", hash((self.model, self.version, self.config.labels)))
        found = {name: label_output(signature, self.config) for name, signature in self.engine.signatures.items()}
        object.__setattr__(self, "_label_outputs", {name: output for name, output in found.items() if output})

    def signature(self, name: str) -> Signature:
        """The signature of that name. Raises UnknownSignature where there is none."""
        try:
            return self.engine.signatures[name]
        except KeyError:
            known = ", ".join(map(repr, sorted(self.engine.signatures)))
            raise UnknownSignature(f'Serving signature key "{name}" not found; {self.model} has {known}') from None

    def signature_to_run(self, name: str) -> str:
        """The signature that is run for this one: for the default one, the one that gives the outlier score as well."""
        score = self.config.outlier_score
        return score.signature if score is not None and name == DEFAULT_SIGNATURE else name

    def run_in_thread(self, signature_name: str, inputs: Arrays) -> dict[str, Array]:
        """Run, and keep pace and health up to date. For threads."""
        begun = self.pace.begin()
        outputs = self.health.run(self.engine.run, signature_name, inputs)
        self.pace.end(begun, row_count(inputs) or 1)
        return outputs

    def runs_in_batches(self, signature_name: str, rows: int) -> bool:
        """Whether this many rows of one request are run in batches. A version so quick that no batches are formed needs
        little memory for its rows."""
        is_batched = self.tick_batcher is not None or not self.pace.is_quick
        return rows > self.limits.max_batch_size and signature_name in self.independence.signatures and is_batched

    @property
    def takes_strings(self) -> bool:
        signatures = self.engine.signatures.values()
        return any(spec.dtype == "DT_STRING" for signature in signatures for spec in signature.inputs.values())

    @property
    def takes_pictures(self) -> bool:
        return any(takes_pictures(signature, self.config.image) for signature in self.engine.signatures.values())

    @property
    def gives_labels(self) -> bool:
        """Whether a signature has a label output."""
        return bool(self._label_outputs)

    def label_output(self, signature_name: str) -> str | None:
        """The only output whose rows are as long as the labels, or for two labels the only probability."""
        return self._label_outputs.get(signature_name)

    def label_scores(self, signature_name: str, outputs: Mapping[str, Array]) -> Array | None:
        """The scores of the label output, [rows, labels]; None where there is none, or a run gave another shape than
        its signature declares, or no probability."""
        name = self._label_outputs.get(signature_name)
        if name is None:
            return None
        return label_scores(
            outputs[name], self.engine.signatures[signature_name].outputs[name], len(self.config.labels)
        )


@dataclass(frozen=True, slots=True)
class Shadow:
    """A version that gets copies of requests. `share`: of how many, from 0 to 1."""

    loaded: LoadedVersion
    share: float
