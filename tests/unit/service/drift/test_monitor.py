import logging
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from service.drift.features import InputFeatures
from service.drift.monitor import MAX_QUEUED_ROWS, MAX_QUEUED_SECONDS, MIN_ROWS, Drift, DriftMonitor, DriftNow, Sampler
from service.drift.psi import Bins
from service.drift.reference import Binned, Reference
from service.drift.window import Window
from service.inference.version import LoadedVersion
from service.runtime.shared_memory import MIN_CAPACITY, SharedMemory
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE, TensorSpec
from tests.unit.service.fakes import any_shape, signature, tensor
from tests.unit.service.watched_for_drift import (
    REFERENCE,
    SIGNATURE,
    UNIFORM,
    honest,
    how_high,
    version,
    watched,
    write_reference,
)

SCORES = {"scores": tensor("DT_FLOAT", -1, 2)}
X = tensor("DT_FLOAT", -1)


def with_inputs(**inputs: TensorSpec) -> LoadedVersion:
    return version({DEFAULT_SIGNATURE: signature(inputs, SCORES)})


def inputs_only(*features: str) -> dict[str, Any]:
    return {"rows": 10_000, "inputs": dict.fromkeys(features, UNIFORM)}


def with_shares(**shares: float) -> dict[str, Any]:
    return REFERENCE | {"labels": shares}


def test_nothing_is_watched_without_a_reference_or_a_window(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert DriftMonitor(1_000).watch(version(), tmp_path) is None
    write_reference(tmp_path, REFERENCE)
    assert DriftMonitor(1_000).watch(version(), tmp_path) is not None
    assert DriftMonitor(0).watch(version(), tmp_path) is None
    assert caplog.records == []


INVALID: dict[str, tuple[Any, LoadedVersion, str]] = {
    "no JSON": (b"not JSON", version(), "malformed"),
    "nothing to watch": (inputs_only(), version(), "it has neither features of inputs nor labels"),
    "unknown input": (inputs_only("y"), version(), "'inputs' has 'y', which no input of the version has"),
    "unknown feature": (inputs_only("x", "x mean"), version(), "'inputs' has 'x mean', which no input"),
    "missing feature": (
        inputs_only("sizes[0]"),
        with_inputs(sizes=tensor("DT_FLOAT", -1, 2)),
        "'inputs' has no 'sizes[1]'; expected every feature of the input 'sizes'",
    ),
    **{
        name: (inputs_only("x"), with_inputs(x=of), "'inputs' has 'x', which no input of the version has as a feature")
        for name, of in {
            "free rank": any_shape("DT_FLOAT"),
            "free size": tensor("DT_FLOAT", -1, -1),
            "size 0": tensor("DT_FLOAT", -1, 0),
            "strings": tensor("DT_STRING", -1),
        }.items()
    },
    "missing label": (with_shares(low=0.5, middle=0.5), version(), "'labels': 'high' is only in serving.json"),
    "unknown label": (with_shares(low=0.5, high=0.5, far=0), version(), "'labels': 'far' is only here"),
    "no labels": (REFERENCE, version(labels=()), "it has 'labels', and the version has none"),
    "input named label": (REFERENCE | {"inputs": {"label": UNIFORM}}, with_inputs(label=X), "'inputs' has 'label'"),
    "other signature": (inputs_only("x"), version({"other": SIGNATURE}), "'serving_default'"),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_reference_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    reference, loaded, why = INVALID[name]
    write_reference(tmp_path, reference)
    assert DriftMonitor(1_000).watch(loaded, tmp_path) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message.startswith("model version 1 is not watched for drift: assets.extra/reference.json: ")
    assert why in record.message


def test_inputs_beyond_the_reference_are_ignored(tmp_path: Path) -> None:
    loaded = with_inputs(text=tensor("DT_STRING", -1), other=X, x=X)
    drift = watched(tmp_path, loaded, inputs_only("x"))
    drift.observe(DEFAULT_SIGNATURE, {"text": np.full(40, b"a"), "other": honest(40), "x": honest(40)}, {})
    assert [each.feature for each in drift.now().features] == ["x"]


def test_signatures_with_the_same_inputs_are_watched(tmp_path: Path) -> None:
    signatures = {
        DEFAULT_SIGNATURE: SIGNATURE,
        "same": SIGNATURE,
        "without scores": signature({"x": X}),
        "other type": signature({"x": tensor("DT_INT32", -1)}, SCORES),
        "other input": signature({"z": X}, SCORES),
    }
    drift = watched(tmp_path, version(signatures))
    for name in signatures:
        drift.observe(name, {"x": honest(5), "z": honest(5)}, how_high({"x": honest(5)}))
    assert drift.now().rows == 10


def test_processes_share_the_window_of_a_version_and_its_reference(tmp_path: Path) -> None:
    memory = SharedMemory()
    one, other, another = (watched(tmp_path, version(number=number), memory=memory) for number in (1, 1, 2))
    observe(one, honest(40))
    assert other.now() == one.now()
    changed = watched(tmp_path, version(), REFERENCE | {"rows": 9_999}, memory=memory)
    assert [each.now().rows for each in (other, another, changed)] == [40, 0, 0]


def test_without_memory_for_a_window_nothing_is_watched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_reference(tmp_path, REFERENCE)
    assert DriftMonitor(MIN_CAPACITY, SharedMemory(MIN_CAPACITY)).watch(version(), tmp_path) is None
    assert "is not watched for drift" in caplog.text


@pytest.fixture
def drift(tmp_path: Path) -> Drift:
    return watched(tmp_path, version())


def observe(drift: Drift, values: Array, rows_a_request: int | None = None) -> None:
    """In one request, or in requests of this many rows."""
    for start in range(0, len(values), rows_a_request or len(values)):
        inputs = {"x": values[start : start + (rows_a_request or len(values))]}
        drift.observe(DEFAULT_SIGNATURE, inputs, how_high(inputs))


def psi(drift: Drift) -> dict[str, float]:
    return {each.feature: each.psi for each in drift.now().features}


def shift(drift: Drift) -> dict[str, float | None]:
    return {each.feature: each.shift for each in drift.now().features}


@pytest.mark.parametrize("rows_a_request", [1, 7, 31, 32, 500])
def test_drift_shows_at_half_a_window_and_ends(drift: Drift, rows_a_request: int) -> None:
    observe(drift, honest(1_000), rows_a_request)
    assert drift.now().rows == 1_000
    assert list(psi(drift)) == ["x", "confidence", "label"]
    assert max(psi(drift).values()) < 0.1
    assert shift(drift)["x"] == pytest.approx(0, abs=0.1)
    observe(drift, honest(500) / 10 + 9, rows_a_request)
    assert min(psi(drift).values()) > 0.25
    assert shift(drift)["x"] == pytest.approx(0.45, abs=0.05)
    assert shift(drift)["label"] is None
    observe(drift, honest(1_000), rows_a_request)
    assert max(psi(drift).values()) < 0.1


def test_few_rows_have_no_psi(drift: Drift) -> None:
    observe(drift, honest(MIN_ROWS - 1), 1)
    assert drift.now() == DriftNow(MIN_ROWS - 1, ())
    observe(drift, honest(1))
    assert len(drift.now().features) == 3


def test_huge_batch_is_thinned_out_evenly(drift: Drift) -> None:
    observe(drift, np.concatenate([honest(50_000), np.full(50_000, 9.9, np.float32)]))
    assert drift.now().rows == 1_000
    assert shift(drift)["x"] == pytest.approx(0.45, abs=0.05)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rows_a_request", [1, 40])
@pytest.mark.filterwarnings("error")
def test_nan_and_infinity_are_drift(drift: Drift, value: float, rows_a_request: int) -> None:
    observe(drift, honest(500))
    strange, scores = np.full(rows_a_request, value, np.float32), np.full((rows_a_request, 2), value, np.float32)
    for _ in range(0, 40, rows_a_request):
        drift.observe(DEFAULT_SIGNATURE, {"x": strange}, {"scores": scores})
    assert drift.now().rows == 540
    observe(drift, np.full(500, value, np.float32))
    assert psi(drift)["x"] > 0.25


def test_nan_scores_have_no_label(drift: Drift) -> None:
    scores = np.full((500, 2), 0.5, np.float32)
    scores[::2, 0] = scores[1::2, 1] = np.nan
    drift.observe(DEFAULT_SIGNATURE, {"x": honest(500)}, {"scores": scores})
    found = psi(drift)
    assert found["x"] < 0.1
    assert found["label"] > 0.25
    assert found["confidence"] > 0.25


@pytest.mark.parametrize(
    ("x", "scores"), [((2, 1), (2, 2)), ((), (2, 2)), ((2,), (2, 3)), ((2,), (2,)), ((3,), (1, 2)), ((0,), (0, 2))]
)
def test_undeclared_shapes_and_missing_rows_do_not_count(
    drift: Drift, x: tuple[int, ...], scores: tuple[int, ...]
) -> None:
    drift.observe(DEFAULT_SIGNATURE, {"x": np.zeros(x, np.float32)}, {"scores": np.zeros(scores)})
    assert drift.now().rows == 0


def test_several_inputs_are_watched(tmp_path: Path) -> None:
    loaded = with_inputs(x=X, pair=tensor("DT_INT64", -1, 2))
    drift = watched(tmp_path, loaded, inputs_only("pair[0]", "x", "pair[1]"))
    x, pairs = honest(500), np.stack([np.full(500, 20), np.arange(500) % 10 + 1], axis=1)
    for row in range(500):
        drift.observe(DEFAULT_SIGNATURE, {"pair": pairs[row : row + 1], "x": x[row : row + 1]}, {})
    found = psi(drift)
    assert list(found) == ["x", "pair[0]", "pair[1]"]
    assert found["pair[0]"] > 0.25 > 0.1 > max(found["x"], found["pair[1]"])


RANDOM = np.random.default_rng(0)
NEVER, OFTEN = 0, 1


@pytest.mark.parametrize(
    ("shares", "usual", "odd"),
    [
        (
            {f"label {number:03}": 0.001 for number in range(1_000)},
            RANDOM.integers(0, 1_000, 1_000),
            RANDOM.integers(0, 100, 1_000),
        ),
        ({"never": 0.0, "often": 0.995, "rare": 0.005}, [OFTEN] * 1_000, [NEVER] * 200 + [OFTEN] * 800),
    ],
    ids=["many", "never predicted"],
)
def test_rare_labels_share_bins(tmp_path: Path, shares: dict[str, float], usual: list[int], odd: list[int]) -> None:
    of_labels = signature({"x": X}, {"scores": tensor("DT_FLOAT", -1, len(shares))})
    loaded = version({DEFAULT_SIGNATURE: of_labels}, labels=tuple(shares))
    drift = watched(tmp_path, loaded, with_shares(**shares))
    found = []
    for predicted in (usual, odd):
        scores = np.full((1_000, len(shares)), 0.1, np.float32)
        scores[np.arange(1_000), predicted] = 0.8
        drift.observe(DEFAULT_SIGNATURE, {"x": honest(1_000)}, {"scores": scores})
        found.append(psi(drift)["label"])
    assert found[0] < 0.1
    assert found[1] > 0.25


def of_one_input(row_shape: tuple[int, ...], **known: Any) -> tuple[Drift, Window]:
    features = InputFeatures("pixels", row_shape)
    binned = Binned((0.5,), (0.5, 0.5))
    reference = Reference(rows=1_000, inputs=dict.fromkeys(features.names, binned))
    bins = Bins([features], reference, ())
    window = Window(1_000, len(bins.names))
    return Drift({"pixels": features}, bins, {DEFAULT_SIGNATURE: None}, window, inf, **known), window


def observe_pixels(drift: Drift, pixels: Any) -> None:
    drift.observe(DEFAULT_SIGNATURE, {"pixels": np.asarray(pixels, np.float32)}, {})


def test_batch_counts_row_by_row() -> None:
    one_by_one, window = of_one_input((9, 9))
    together, other_window = of_one_input((9, 9))
    pixels = np.random.default_rng(0).random((500, 9, 9), np.float32)
    for row in pixels:
        observe_pixels(one_by_one, row[np.newaxis])
    observe_pixels(together, pixels)
    assert one_by_one.now() == together.now()
    assert window.rows().tolist() == other_window.rows().tolist()


def test_rows_are_queued_but_not_for_long() -> None:
    now = 100.0
    drift, window = of_one_input((), clock=lambda: now)
    for _ in range(MAX_QUEUED_ROWS - 1):
        observe_pixels(drift, [0])
    assert window.total == 0
    observe_pixels(drift, [0])
    assert window.total == MAX_QUEUED_ROWS
    now += MAX_QUEUED_SECONDS
    for _ in range(2):
        observe_pixels(drift, [0])
        assert window.total == MAX_QUEUED_ROWS + 1
    assert drift.now().rows == MAX_QUEUED_ROWS + 2


def test_large_request_does_not_overtake_queued_rows() -> None:
    drift, window = of_one_input(())
    observe_pixels(drift, [9] * (MAX_QUEUED_ROWS - 1))
    observe_pixels(drift, [0] * window.size)
    drift.now()
    assert np.unique(window.rows()).tolist() == [0]


def test_requests_with_large_rows_are_sampled() -> None:
    draws = iter([0.0, 0.39, 0.4, 0.99, 0.1])
    drift, _ = of_one_input((64, 65), draw=lambda: next(draws))
    for _ in range(5):
        observe_pixels(drift, np.zeros((1, 64, 65), np.float32))
    assert drift.now().rows == 3


def test_queued_large_rows_are_copied_at_once() -> None:
    drift, window = of_one_input((64, 65), draw=lambda: 0.0)
    pixels = np.ones((1, 64, 65), np.float32)
    observe_pixels(drift, pixels)
    pixels[:] = 0
    drift.now()
    # mean, deviation, smallest, largest, ground: of ones.
    assert window.rows().tolist() == [[1, 0, 1, 1, 1]]


@pytest.mark.filterwarnings("error")
def test_infinite_pixel_gives_no_warning() -> None:
    drift, window = of_one_input((9, 9))
    pixels = np.ones((40, 9, 9), np.float32)
    pixels[:, 0, 0] = np.inf
    observe_pixels(drift, pixels)
    # An infinite mean has no deviation: the bin for NaN.
    assert window.rows()[0].tolist() == [1, 2, 1, 1, 1]


class Requests:
    """Sent evenly over a time."""

    def __init__(self, max_share: float = 1.0) -> None:
        self.now = 100.0
        self._sampler = Sampler(max_share, 100, Random(0).random, lambda: self.now)

    def drawn(self, count: int, seconds: float) -> int:
        drawn = 0
        for _ in range(count):
            self.now += seconds / count
            drawn += self._sampler.draw()
        return drawn


@pytest.mark.parametrize("count", [10, 500, 990])
def test_few_requests_are_all_drawn(count: int) -> None:
    assert Requests().drawn(count, seconds=10) == count


def test_many_requests_are_limited_until_a_pause() -> None:
    requests = Requests()
    # The rate is not known within the first second.
    assert requests.drawn(999, seconds=0.999) == 999
    assert requests.drawn(10_000, seconds=10) == pytest.approx(1_000, rel=0.1)
    requests.now += 3_600
    assert requests.drawn(500, seconds=0.5) == 500


def test_share_limits_few_requests_too() -> None:
    assert Requests(max_share=0.4).drawn(500, seconds=50) == pytest.approx(200, rel=0.2)
