import logging
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from service.drift.features import InputFeatures
from service.drift.monitor import (
    MAX_QUEUED_ROWS,
    MAX_QUEUED_SECONDS,
    MIN_ROWS,
    Drift,
    DriftMonitor,
    DriftNow,
    Sampler,
)
from service.drift.psi import Bins
from service.drift.reference import Binned, Reference
from service.drift.window import Window
from service.runtime.shared_memory import MIN_CAPACITY, SharedMemory
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE
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

WITHOUT_LABELS = {"rows": 10_000, "inputs": {"x": UNIFORM}}


def test_without_a_reference_nothing_is_watched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert DriftMonitor(1_000).watch(version(), tmp_path) is None
    assert caplog.records == []


def test_a_window_of_0_turns_it_off(tmp_path: Path) -> None:
    write_reference(tmp_path, REFERENCE)
    assert DriftMonitor(1_000).watch(version(), tmp_path) is not None
    assert DriftMonitor(0).watch(version(), tmp_path) is None


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        (b"not JSON", "malformed"),
        (WITHOUT_LABELS | {"inputs": {"y": UNIFORM}}, "'inputs' has 'y', which no input of the version has"),
        (WITHOUT_LABELS | {"inputs": {"x": UNIFORM, "x mean": UNIFORM}}, "'inputs' has 'x mean', which no input"),
        (WITHOUT_LABELS | {"inputs": {}}, "it has neither features of inputs nor labels"),
        (REFERENCE | {"labels": {"low": 0.5, "middle": 0.5}}, "'labels': 'high' is only in serving.json"),
        (REFERENCE | {"labels": {"low": 0.5, "high": 0.5, "far": 0}}, "'labels': 'far' is only here"),
    ],
)
def test_an_invalid_reference_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, reference: Any, why: str
) -> None:
    write_reference(tmp_path, reference)
    assert DriftMonitor(1_000).watch(version(), tmp_path) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message.startswith("model version 1 is not watched for drift: assets.extra/reference.json: ")
    assert why in record.message


def test_labels_without_labels_in_the_version_are_invalid(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_reference(tmp_path, REFERENCE)
    assert DriftMonitor(1_000).watch(version(labels=()), tmp_path) is None
    assert "it has 'labels', and the version has none" in caplog.text


def test_a_missing_feature_is_invalid(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sizes = signature({"sizes": tensor("DT_FLOAT", -1, 2)})
    write_reference(tmp_path, WITHOUT_LABELS | {"inputs": {"sizes[0]": UNIFORM}})
    assert DriftMonitor(1_000).watch(version({DEFAULT_SIGNATURE: sizes}), tmp_path) is None
    assert "'inputs' has no 'sizes[1]'; expected every feature of the input 'sizes'" in caplog.text


def test_an_input_named_label_is_invalid(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    named = signature({"label": tensor("DT_FLOAT", -1)}, {"scores": tensor("DT_FLOAT", -1, 2)})
    write_reference(tmp_path, REFERENCE | {"inputs": {"label": UNIFORM}})
    assert DriftMonitor(1_000).watch(version({DEFAULT_SIGNATURE: named}), tmp_path) is None
    assert "'inputs' has 'label'" in caplog.text


@pytest.mark.parametrize(
    "spec", [any_shape("DT_FLOAT"), tensor("DT_FLOAT", -1, -1), tensor("DT_STRING", -1), tensor("DT_FLOAT", -1, 0)]
)
def test_free_shapes_and_strings_have_no_features(tmp_path: Path, caplog: pytest.LogCaptureFixture, spec: Any) -> None:
    write_reference(tmp_path, WITHOUT_LABELS)
    assert DriftMonitor(1_000).watch(version({DEFAULT_SIGNATURE: signature({"x": spec})}), tmp_path) is None
    assert "'inputs' has 'x', which no input of the version has as a feature" in caplog.text


def test_the_default_signature_is_required(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_reference(tmp_path, WITHOUT_LABELS)
    assert DriftMonitor(1_000).watch(version({"other": SIGNATURE}), tmp_path) is None
    assert "'serving_default'" in caplog.text


def test_inputs_beyond_the_reference_are_ignored(tmp_path: Path) -> None:
    two = signature({"text": tensor("DT_STRING", -1), "other": tensor("DT_FLOAT", -1), "x": tensor("DT_FLOAT", -1)})
    drift = watched(tmp_path, version({DEFAULT_SIGNATURE: two}), WITHOUT_LABELS)
    drift.observe(DEFAULT_SIGNATURE, {"text": np.full(40, b"a"), "other": honest(40), "x": honest(40)}, {})
    assert [each.feature for each in drift.now().features] == ["x"]


def test_signatures_with_the_same_inputs_are_watched(tmp_path: Path) -> None:
    signatures = {
        DEFAULT_SIGNATURE: SIGNATURE,
        "same": signature({"x": tensor("DT_FLOAT", -1)}, {"scores": tensor("DT_FLOAT", -1, 2)}),
        "without scores": signature({"x": tensor("DT_FLOAT", -1)}),
        "other type": signature({"x": tensor("DT_INT32", -1)}, {"scores": tensor("DT_FLOAT", -1, 2)}),
        "other input": signature({"z": tensor("DT_FLOAT", -1)}, {"scores": tensor("DT_FLOAT", -1, 2)}),
    }
    drift = watched(tmp_path, version(signatures))
    for name in signatures:
        inputs = {"z" if name == "other input" else "x": honest(5)}
        drift.observe(name, inputs, how_high({"x": honest(5)}))
    assert drift.now().rows == 10


def test_processes_share_the_window_of_a_version(tmp_path: Path) -> None:
    memory = SharedMemory()
    one, other, another = (watched(tmp_path, version(number=number), memory=memory) for number in (1, 1, 2))
    inputs = {"x": honest(40)}
    one.observe(DEFAULT_SIGNATURE, inputs, how_high(inputs))
    assert other.now() == one.now()
    assert (other.now().rows, another.now().rows) == (40, 0)


def test_a_changed_reference_gets_its_own_window(tmp_path: Path) -> None:
    memory = SharedMemory()
    one = watched(tmp_path, version(), memory=memory)
    inputs = {"x": honest(40)}
    one.observe(DEFAULT_SIGNATURE, inputs, how_high(inputs))
    assert watched(tmp_path, version(), REFERENCE | {"rows": 9_999}, memory=memory).now().rows == 0


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


def of_one_input(row_shape: tuple[int, ...], **known: Any) -> tuple[Drift, Window]:
    features = InputFeatures("pixels", row_shape)
    binned = Binned((0.5,), (0.5, 0.5))
    reference = Reference(rows=1_000, inputs=dict.fromkeys(features.names, binned))
    bins = Bins([features], reference, ())
    window = Window(1_000, len(bins.names))
    return Drift({"pixels": features}, bins, {DEFAULT_SIGNATURE: None}, window, inf, **known), window


@pytest.mark.parametrize("rows_a_request", [1, 7, 31, 32, 500])
def test_training_data_does_not_drift(drift: Drift, rows_a_request: int) -> None:
    observe(drift, honest(1_000), rows_a_request)
    assert drift.now().rows == 1_000
    assert list(psi(drift)) == ["x", "confidence", "label"]
    assert max(psi(drift).values()) < 0.1
    assert abs(shift(drift)["x"] or 0) < 0.1


@pytest.mark.parametrize("rows_a_request", [1, 50])
def test_drift_shows_at_half_a_window_and_ends(drift: Drift, rows_a_request: int) -> None:
    observe(drift, honest(1_000))
    observe(drift, honest(500) / 10 + 9, rows_a_request)
    assert all(value > 0.25 for value in psi(drift).values())
    assert (shift(drift)["x"] or 0) > 0.4
    assert shift(drift)["label"] is None
    observe(drift, honest(1_000), rows_a_request)
    assert max(psi(drift).values()) < 0.1


def test_few_rows_have_no_psi(drift: Drift) -> None:
    observe(drift, honest(MIN_ROWS - 1), 1)
    assert drift.now() == DriftNow(MIN_ROWS - 1, ())
    observe(drift, honest(1))
    assert len(drift.now().features) == 3


def test_a_batch_counts_row_by_row() -> None:
    one_by_one, window = of_one_input((9, 9))
    together, other_window = of_one_input((9, 9))
    pixels = np.random.default_rng(0).random((500, 9, 9), np.float32)
    for row in pixels:
        one_by_one.observe(DEFAULT_SIGNATURE, {"pixels": row[np.newaxis]}, {})
    together.observe(DEFAULT_SIGNATURE, {"pixels": pixels}, {})
    assert one_by_one.now() == together.now()
    assert window.rows().tolist() == other_window.rows().tolist()


def test_a_huge_batch_is_thinned_out_evenly(drift: Drift) -> None:
    values = np.concatenate([honest(50_000), np.full(50_000, 9.9, np.float32)])
    observe(drift, values)
    assert drift.now().rows == 1_000
    assert (shift(drift)["x"] or 0) == pytest.approx(0.45, abs=0.05)


def test_rows_are_queued_but_not_for_long() -> None:
    now = 100.0
    drift, window = of_one_input((), clock=lambda: now)
    one = {"pixels": np.zeros(1, np.float32)}
    for _ in range(MAX_QUEUED_ROWS - 1):
        drift.observe(DEFAULT_SIGNATURE, one, {})
    assert window.total == 0
    drift.observe(DEFAULT_SIGNATURE, one, {})
    assert window.total == MAX_QUEUED_ROWS
    now += MAX_QUEUED_SECONDS
    drift.observe(DEFAULT_SIGNATURE, one, {})
    assert window.total == MAX_QUEUED_ROWS + 1
    drift.observe(DEFAULT_SIGNATURE, one, {})
    assert window.total == MAX_QUEUED_ROWS + 1
    assert drift.now().rows == MAX_QUEUED_ROWS + 2


def test_a_large_request_does_not_overtake_queued_rows() -> None:
    drift, window = of_one_input(())
    drift.observe(DEFAULT_SIGNATURE, {"pixels": np.full(MAX_QUEUED_ROWS - 1, 9, np.float32)}, {})
    drift.observe(DEFAULT_SIGNATURE, {"pixels": np.zeros(window.size, np.float32)}, {})
    drift.now()
    assert np.unique(window.rows()).tolist() == [0]


def test_requests_with_large_rows_are_sampled() -> None:
    draws = iter([0.0, 0.39, 0.4, 0.99, 0.1])
    drift, _ = of_one_input((64, 65), draw=lambda: next(draws))
    for _ in range(5):
        drift.observe(DEFAULT_SIGNATURE, {"pixels": np.zeros((1, 64, 65), np.float32)}, {})
    assert drift.now().rows == 3


def test_queued_large_rows_are_copied_at_once() -> None:
    drift, window = of_one_input((64, 65), draw=lambda: 0.0)
    pixels = np.ones((1, 64, 65), np.float32)
    drift.observe(DEFAULT_SIGNATURE, {"pixels": pixels}, {})
    pixels[:] = 0
    drift.now()
    # mean, deviation, smallest, largest, ground: of ones.
    assert window.rows().tolist() == [[1, 0, 1, 1, 1]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rows_a_request", [1, 40])
@pytest.mark.filterwarnings("error")
def test_nan_and_infinity_are_drift(drift: Drift, value: float, rows_a_request: int) -> None:
    observe(drift, honest(500))
    strange = np.full(40, value, np.float32)
    for start in range(0, 40, rows_a_request):
        inputs = {"x": strange[start : start + rows_a_request]}
        drift.observe(DEFAULT_SIGNATURE, inputs, {"scores": np.full((rows_a_request, 2), value, np.float32)})
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


@pytest.mark.filterwarnings("error")
def test_an_infinite_pixel_gives_no_warning() -> None:
    drift, window = of_one_input((9, 9))
    pixels = np.ones((40, 9, 9), np.float32)
    pixels[:, 0, 0] = np.inf
    drift.observe(DEFAULT_SIGNATURE, {"pixels": pixels}, {})
    # An infinite mean has no deviation: the bin for NaN.
    assert window.rows()[0].tolist() == [1, 2, 1, 1, 1]


def test_missing_rows_do_not_count(drift: Drift) -> None:
    observe(drift, np.empty(0, np.float32), 1)
    drift.observe(DEFAULT_SIGNATURE, {"x": np.empty(0, np.float32)}, {"scores": np.empty((0, 2), np.float32)})
    drift.observe(DEFAULT_SIGNATURE, {"x": honest(3)}, {"scores": np.ones((1, 2), np.float32)})
    assert drift.now().rows == 0


@pytest.mark.parametrize(
    ("x", "scores"), [((2, 1), (2, 2)), ((), (2, 2)), ((2,), (2, 3)), ((2,), (2,)), ((0,), (0, 2))]
)
def test_undeclared_shapes_do_not_count(drift: Drift, x: tuple[int, ...], scores: tuple[int, ...]) -> None:
    drift.observe("serving_default", {"x": np.zeros(x, np.float32)}, {"scores": np.zeros(scores)})
    assert drift.now().rows == 0


def test_several_inputs_are_watched(tmp_path: Path) -> None:
    inputs = signature({"x": tensor("DT_FLOAT", -1), "pair": tensor("DT_INT64", -1, 2)})
    reference = {"rows": 10_000, "inputs": {"pair[0]": UNIFORM, "x": UNIFORM, "pair[1]": UNIFORM}}
    drift = watched(tmp_path, version({DEFAULT_SIGNATURE: inputs}, labels=()), reference)
    x, pairs = honest(500), np.stack([np.full(500, 20), np.arange(500) % 10 + 1], axis=1)
    for row in range(500):
        drift.observe(DEFAULT_SIGNATURE, {"pair": pairs[row : row + 1], "x": x[row : row + 1]}, {})
    found = psi(drift)
    assert list(found) == ["x", "pair[0]", "pair[1]"]
    assert found["pair[0]"] > 0.25 > 0.1 > max(found["x"], found["pair[1]"])


def test_many_rare_labels_share_bins(tmp_path: Path) -> None:
    names = tuple(f"label {number}" for number in range(1_000))
    of_all = signature({"x": tensor("DT_FLOAT", -1)}, {"scores": tensor("DT_FLOAT", -1, 1_000)})
    reference = REFERENCE | {"labels": dict.fromkeys(names, 0.001)}
    drift = watched(tmp_path, version({DEFAULT_SIGNATURE: of_all}, labels=names), reference)
    random = np.random.default_rng(0)

    def answer(labels: Array) -> None:
        scores = np.zeros((len(labels), 1_000), np.float32)
        scores[np.arange(len(labels)), labels] = random.uniform(0.5, 1, len(labels))
        drift.observe(DEFAULT_SIGNATURE, {"x": honest(len(labels))}, {"scores": scores})

    answer(random.integers(0, 1_000, 1_000))
    assert psi(drift)["label"] < 0.1
    answer(random.integers(0, 100, 1_000))
    assert psi(drift)["label"] > 0.25


def test_labels_never_predicted_share_a_bin(tmp_path: Path) -> None:
    names = ("never", "rare", "often")
    of_three = signature({"x": tensor("DT_FLOAT", -1)}, {"scores": tensor("DT_FLOAT", -1, 3)})
    reference = REFERENCE | {"labels": {"often": 0.995, "never": 0.0, "rare": 0.005}}
    drift = watched(tmp_path, version({DEFAULT_SIGNATURE: of_three}, labels=names), reference)
    scores = np.tile(np.array([[0.1, 0.1, 0.8]], np.float32), (1_000, 1))
    drift.observe(DEFAULT_SIGNATURE, {"x": honest(1_000)}, {"scores": scores})
    assert psi(drift)["label"] < 0.1
    scores[:200] = [0.8, 0.1, 0.1]
    drift.observe(DEFAULT_SIGNATURE, {"x": honest(1_000)}, {"scores": scores})
    assert psi(drift)["label"] > 0.25


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def drawn(sampler: Sampler, clock: Clock, requests: int, seconds: float) -> int:
    """How many of these requests are drawn, evenly spread over that time."""
    count = 0
    for _ in range(requests):
        clock.now += seconds / requests
        count += sampler.draw()
    return count


def sampler_of(max_share: float, clock: Clock) -> Sampler:
    return Sampler(max_share, 100, Random(0).random, clock)


@pytest.mark.parametrize("requests", [1, 50, 99])
def test_few_requests_are_all_drawn(requests: int) -> None:
    clock = Clock()
    assert drawn(sampler_of(1.0, clock), clock, 10 * requests, 10) == 10 * requests


def test_many_requests_are_limited() -> None:
    clock = Clock()
    sampler = sampler_of(1.0, clock)
    # The rate is not known within the first second.
    assert drawn(sampler, clock, 999, 0.999) == 999
    assert drawn(sampler, clock, 10_000, 10) == pytest.approx(1_000, rel=0.1)


def test_the_share_limits_few_requests_too() -> None:
    clock = Clock()
    assert drawn(sampler_of(0.4, clock), clock, 500, 50) == pytest.approx(200, rel=0.2)


def test_a_pause_resets_the_rate() -> None:
    clock = Clock()
    sampler = sampler_of(1.0, clock)
    drawn(sampler, clock, 20_000, 10)
    clock.now += 3_600
    assert drawn(sampler, clock, 500, 0.5) == 500
