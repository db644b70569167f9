"""Drift of a version: the rows that it is asked about, compared with those that it was trained on.

`DriftMonitor` reads a version's reference when the version is loaded. `Drift` then watches that version: it samples
requests, puts their rows into the bins of the reference, and keeps the last ones in a window.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import random
from time import perf_counter
from typing import Protocol

import msgspec
import numpy as np

from service.drift.accuracy import ExpectedAccuracy, expected_accuracy
from service.drift.card import Card
from service.drift.features import InputFeatures
from service.drift.psi import CONFIDENCE, LABEL, OUTLIER_SCORE, Bins, FeatureBins
from service.drift.reference import REFERENCE_FILE, InvalidReference, Reference, read_reference
from service.drift.window import Window, shared_window
from service.engines.base import Engine
from service.runtime.shared_memory import SharedMemory
from service.serving_config import ASSETS, ServingConfig
from service.tensors.dtypes import DTYPES, Array
from service.tensors.signature import DEFAULT_SIGNATURE, Signature, TensorSpec

# Requests of each version that each process measures. More would cost time and tell no more, and the window would
# cover only a moment.
MAX_REQUESTS_PER_SECOND = 100
# How often the rate of requests is measured.
RATE_SECONDS = 1.0
# Measuring rows together takes a fraction of the time, so rows are queued: at most this many,
MAX_QUEUED_ROWS = 32
# for at most this long once the next row comes.
MAX_QUEUED_SECONDS = 1.0
# Of a row with more values only the measured places are queued,
MAX_QUEUED_VALUES = 4_096
# and only this share of the requests with such rows is measured, since they take longer.
SHARE_OF_LARGE = 0.4
# Rows of one request that are measured together.
MAX_ROWS_AT_ONCE = 1_000
# With fewer rows in the window, even foreign ones do not stand out.
MIN_ROWS = 30

logger = logging.getLogger(__name__)


class WatchedVersion(Protocol):
    """What the monitor needs to know of a loaded version."""

    @property
    def model(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def config(self) -> ServingConfig: ...
    @property
    def card(self) -> Card: ...
    def label_output(self, signature_name: str) -> str | None: ...


@dataclass(frozen=True, slots=True)
class DriftMonitor:
    """`rows`: size of the windows; 0 turns the monitor off. `memory`: where worker processes share the windows; None
    for a single process. `requests_per_second`: how many are measured at most."""

    rows: int
    memory: SharedMemory | None = None
    requests_per_second: float = MAX_REQUESTS_PER_SECOND

    def watch(self, loaded: WatchedVersion, path: Path) -> "Drift | None":
        """None without a valid reference: the version is served all the same."""
        if not self.rows:
            return None
        try:
            reference = read_reference(path)
            return self._drift(reference, loaded) if reference is not None else None
        except (InvalidReference, OSError) as error:
            what = (loaded.model, loaded.version, ASSETS, REFERENCE_FILE, error)
            logger.warning("%s version %d is not watched for drift: %s/%s: %s", *what)
            return None

    def _drift(self, reference: Reference, loaded: WatchedVersion) -> "Drift":
        signatures = loaded.engine.signatures
        default = signatures.get(DEFAULT_SIGNATURE)
        if default is None:
            raise InvalidReference(f"it is about {DEFAULT_SIGNATURE!r}, a signature that the version does not have")
        _check_labels(reference, loaded)
        inputs = _input_features(reference, default)
        if not inputs and reference.labels is None:
            raise InvalidReference("it has neither features of inputs nor labels")
        score = loaded.config.outlier_score
        if reference.outlier_score is not None and score is None:
            raise InvalidReference("it has 'outlier_score', and the version gives none")
        bins = Bins(list(inputs.values()), reference, loaded.config.labels)
        watched = {}
        for name, signature in signatures.items():
            scores = loaded.label_output(name) if reference.labels is not None else None
            is_scored = reference.outlier_score is None or (score and name in (DEFAULT_SIGNATURE, score.signature))
            if _has_inputs_of(signature, default, inputs) and is_scored and (scores or reference.labels is None):
                watched[name] = scores
        window = self._window(loaded, reference, bins.columns)
        expected = expected_accuracy(reference, loaded.card)
        return Drift(inputs, bins, watched, window, self.requests_per_second, expected)

    def _window(self, loaded: WatchedVersion, reference: Reference, columns: int) -> Window:
        if self.memory is None:
            return Window(self.rows, columns)
        key = msgspec.json.encode((loaded.model, loaded.version, self.rows, reference))
        return shared_window(self.memory, key, self.rows, columns)


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """`shift`: None for labels, which have no order."""

    feature: str
    psi: float
    shift: float | None


@dataclass(frozen=True, slots=True)
class DriftNow:
    """`rows`: how many the window holds; while they are too few, `features` is empty and nothing else known.
    `expected_accuracy`: None for a version of which confidence does not tell it. `outliers`: their share of the rows;
    None without a reference of the outlier score."""

    rows: int
    features: Sequence[FeatureDrift]
    expected_accuracy: float | None = None
    outliers: float | None = None


@dataclass(frozen=True, slots=True)
class Counted:
    """The window's rows in their bins. `counts`: of each feature, the last for NaN. `total`: rows ever appended."""

    now: DriftNow
    bins: Sequence[FeatureBins]
    counts: Sequence[Sequence[int]]
    total: int


class Drift:
    """Drift of one version. Safe to use from several threads."""

    def __init__(
        self,
        inputs: Mapping[str, InputFeatures],
        bins: Bins,
        signatures: Mapping[str, str | None],
        window: Window,
        requests_per_second: float,
        expected: ExpectedAccuracy | None = None,
        draw: Callable[[], float] = random,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        """`inputs`: by name, in the order of the bins. `signatures`: those that take these inputs, each with the output
        that holds a classifier's scores. `requests_per_second`, `draw`: see Sampler. `expected`: None where confidence
        does not tell how often the version is right."""
        self._names = list(inputs)
        self._bins = bins
        self._signatures = signatures
        self._window = window
        self._expected = expected
        self._clock = clock
        self._is_large = sum(each.size for each in inputs.values()) > MAX_QUEUED_VALUES
        self._sampler = Sampler(SHARE_OF_LARGE if self._is_large else 1.0, requests_per_second, draw, clock)
        self._lock = threading.Lock()
        self._queue: list[list[Array]] = []
        self._queued_scores: list[float] = []
        self._queued_rows = 0
        self._measured_at = clock()
        self._latest: tuple[int, DriftNow] | None = None

    def observe(
        self,
        signature: str,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        outlier_scores: Sequence[float] = (),
    ) -> None:
        """Measure a request and its outputs, or leave it out if it is not in the sample."""
        if signature not in self._signatures or not self._sampler.draw():
            return
        arrays = [inputs[name] for name in self._names]
        if scores := self._signatures[signature]:
            arrays.append(outputs[scores])
        rows = arrays[0].shape[0] if arrays[0].ndim else 0
        for array, row_shape in zip(arrays, self._bins.row_shapes, strict=False):
            # A graph may take and return other shapes than its signature declares.
            if not rows or array.shape != (rows, *row_shape):
                return
        if self._bins.has_outlier_score and len(outlier_scores) != rows:
            return
        if rows >= MAX_QUEUED_ROWS:
            self._measure_many(arrays, outlier_scores, rows)
            return
        if self._is_large:
            arrays = [array.copy() for array in self._bins.select(arrays)]
        with self._lock:
            self._queue.append(arrays)
            self._queued_scores += outlier_scores
            self._queued_rows += rows
            if self._queued_rows >= MAX_QUEUED_ROWS or self._clock() - self._measured_at >= MAX_QUEUED_SECONDS:
                self._measure_queued()

    def now(self) -> DriftNow:
        with self._lock:
            self._measure_queued()
            total = self._window.total
            if self._latest is None or self._latest[0] != total:
                self._latest = total, self._compare(self._window.rows())
            return self._latest[1]

    def counted(self) -> Counted:
        with self._lock:
            self._measure_queued()
            rows = self._window.rows().copy()
            total = self._window.total
        bins, counts = self._bins.described(), self._bins.count(rows).tolist()
        sizes = [len(each.shares) + 1 for each in bins]
        return Counted(self._compare(rows), bins, [of[:size] for of, size in zip(counts, sizes, strict=True)], total)

    def _measure_many(self, arrays: Sequence[Array], outlier_scores: Sequence[float], rows: int) -> None:
        # Rows from all over the request, where it has more than the window holds.
        step = -(-rows // self._window.size)
        with self._lock:
            # These came earlier.
            self._measure_queued()
        for first in range(0, rows, MAX_ROWS_AT_ONCE * step):
            places = slice(first, first + MAX_ROWS_AT_ONCE * step, step)
            selected = self._bins.select([array[places] for array in arrays])
            with self._lock:
                self._append(selected, outlier_scores[places])

    def _measure_queued(self) -> None:
        queue, self._queue, self._queued_rows = self._queue, [], 0
        outlier_scores, self._queued_scores = self._queued_scores, []
        self._measured_at = self._clock()
        if queue:
            together = [np.concatenate(arrays) for arrays in zip(*queue, strict=True)]
            self._append(together if self._is_large else self._bins.select(together), outlier_scores)

    def _append(self, selected: Sequence[Array], outlier_scores: Sequence[float]) -> None:
        # Inputs may be infinite.
        with np.errstate(invalid="ignore", over="ignore"):
            self._window.append(self._bins.assign(selected, outlier_scores))

    def _compare(self, rows: Array) -> DriftNow:
        if len(rows) < MIN_ROWS:
            return DriftNow(len(rows), ())
        counts = self._bins.count(rows)
        psi, shift = (found.tolist() for found in (self._bins.measure.psi(counts), self._bins.measure.shift(counts)))
        return DriftNow(
            len(rows),
            [
                FeatureDrift(name, psi[index], None if name == LABEL else shift[index])
                for index, name in enumerate(self._bins.names)
            ],
            None if self._expected is None else self._expected.of(rows[:, -1]),
            self._bins.outliers(counts),
        )


class Sampler:
    """Draws requests at random, so that no kind of request is left out."""

    def __init__(
        self, max_share: float, max_per_second: float, draw: Callable[[], float], clock: Callable[[], float]
    ) -> None:
        """`max_share`: the share to draw while requests are few. `draw`: returns a random number in [0, 1)."""
        self._max_share = self._share = max_share
        self._max_per_second = max_per_second
        self._draw = draw
        self._clock = clock
        self._requests = 0
        self._since = clock()

    def draw(self) -> bool:
        """Whether this request is in the sample."""
        # Increments that threads lose do not matter.
        self._requests += 1
        now = self._clock()
        if (passed := now - self._since) >= RATE_SECONDS:
            self._share = min(self._max_share, self._max_per_second * passed / self._requests)
            self._requests, self._since = 0, now
        return self._draw() < self._share


def _input_features(reference: Reference, signature: Signature) -> dict[str, InputFeatures]:
    """Features of the inputs that the reference describes. Raises InvalidReference if some are missing or unknown."""
    unknown = set(reference.inputs)
    found = {}
    for name, spec in signature.inputs.items():
        row_shape = fixed_row_shape(spec)
        if row_shape is None:
            continue
        features = InputFeatures(name, row_shape)
        if missing := [each for each in features.names if each not in reference.inputs]:
            if len(missing) < len(features.names):
                raise InvalidReference(f"'inputs' has no {missing[0]!r}; expected every feature of the input {name!r}")
            continue
        found[name] = features
        unknown.difference_update(features.names)
    if unknown:
        raise InvalidReference(f"'inputs' has {min(unknown)!r}, which no input of the version has as a feature")
    return found


def fixed_row_shape(spec: TensorSpec) -> tuple[int, ...] | None:
    """None for an input without features: it holds no numbers, or its rows have no fixed shape."""
    dtype = DTYPES.get(spec.dtype)
    if dtype is None or dtype.kind not in "fiub" or not spec.shape or 0 in spec.shape[1:] or -1 in spec.shape[1:]:
        return None
    return spec.shape[1:]


def _check_labels(reference: Reference, loaded: WatchedVersion) -> None:
    if reference.labels is None:
        return
    if not loaded.label_output(DEFAULT_SIGNATURE):
        raise InvalidReference("it has 'labels', and the version has none")
    if differing := sorted(reference.labels.keys() ^ set(loaded.config.labels)):
        where = "only here" if differing[0] in reference.labels else "only in serving.json"
        raise InvalidReference(f"'labels': {differing[0]!r} is {where}")
    if clashing := {LABEL, CONFIDENCE, OUTLIER_SCORE} & reference.inputs.keys():
        raise InvalidReference(f"'inputs' has {min(clashing)!r}, which is the name of a feature of the outputs")


def _has_inputs_of(signature: Signature, default: Signature, names: Mapping[str, InputFeatures]) -> bool:
    """Whether both signatures have inputs of these names, of the same type and shape."""
    return all(
        (spec := signature.inputs.get(name)) is not None
        and (spec.dtype, spec.shape) == (default.inputs[name].dtype, default.inputs[name].shape)
        for name in names
    )
