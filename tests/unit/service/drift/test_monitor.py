from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.drift.features import InputFeatures
from service.drift.monitor import MIN_ROWS, WAITING_ROWS, WAITING_SECONDS, Drift, DriftNow
from service.drift.psi import Bins
from service.drift.reference import Binned, Reference
from service.drift.window import Window
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE
from tests.unit.service.fakes import signature, tensor
from tests.unit.service.watched_for_drift import REFERENCE, UNIFORM, honest, how_high, version, watched


@pytest.fixture
def drift(tmp_path: Path) -> Drift:
    return watched(tmp_path, version())


def ask(drift: Drift, values: Array, rows_a_request: int | None = None) -> None:
    """In one request, unless so many at a time."""
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
def test_honest_requests_do_not_drift(drift: Drift, rows_a_request: int) -> None:
    ask(drift, honest(1_000), rows_a_request)
    assert drift.now().rows == 1_000
    assert list(psi(drift)) == ["x", "confidence", "label"]
    assert max(psi(drift).values()) < 0.1
    assert abs(shift(drift)["x"] or 0) < 0.1


@pytest.mark.parametrize("rows_a_request", [1, 50])
def test_drift_is_told_once_half_the_window_has_drifted_and_forgotten_when_it_is_over(
    drift: Drift, rows_a_request: int
) -> None:
    ask(drift, honest(1_000))
    ask(drift, honest(500) / 10 + 9, rows_a_request)
    assert all(value > 0.25 for value in psi(drift).values())
    assert (shift(drift)["x"] or 0) > 0.4
    assert shift(drift)["label"] is None
    ask(drift, honest(1_000), rows_a_request)
    assert max(psi(drift).values()) < 0.1


def test_with_few_rows_there_is_no_index(drift: Drift) -> None:
    ask(drift, honest(MIN_ROWS - 1), 1)
    assert drift.now() == DriftNow(MIN_ROWS - 1, ())
    ask(drift, honest(1))
    assert len(drift.now().features) == 3


def test_a_batch_of_many_rows_counts_as_one_request_for_each() -> None:
    one_by_one, window = of_one_input((9, 9))
    together, other_window = of_one_input((9, 9))
    pixels = np.random.default_rng(0).random((500, 9, 9), np.float32)
    for row in pixels:
        one_by_one.observe(DEFAULT_SIGNATURE, {"pixels": row[np.newaxis]}, {})
    together.observe(DEFAULT_SIGNATURE, {"pixels": pixels}, {})
    assert one_by_one.now() == together.now()
    assert window.rows().tolist() == other_window.rows().tolist()


def test_of_more_rows_than_the_window_holds_some_from_everywhere_are_taken(drift: Drift) -> None:
    values = np.concatenate([honest(50_000), np.full(50_000, 9.9, np.float32)])
    ask(drift, values)
    assert drift.now().rows == 1_000
    assert (shift(drift)["x"] or 0) == pytest.approx(0.45, abs=0.05)


def test_rows_wait_for_each_other_but_not_for_long() -> None:
    now = 100.0
    drift, window = of_one_input((), clock=lambda: now)
    one = {"pixels": np.zeros(1, np.float32)}
    for _ in range(WAITING_ROWS - 1):
        drift.observe(DEFAULT_SIGNATURE, one, {})
    assert window.came == 0
    drift.observe(DEFAULT_SIGNATURE, one, {})
    assert window.came == WAITING_ROWS
    now += WAITING_SECONDS
    drift.observe(DEFAULT_SIGNATURE, one, {})
    assert window.came == WAITING_ROWS + 1
    drift.observe(DEFAULT_SIGNATURE, one, {})
    assert window.came == WAITING_ROWS + 1
    assert drift.now().rows == WAITING_ROWS + 2


def test_of_requests_with_large_rows_some_are_looked_at() -> None:
    draws = iter([0.0, 0.39, 0.4, 0.99, 0.1])
    drift, _ = of_one_input((64, 65), draw=lambda: next(draws))
    for _ in range(5):
        drift.observe(DEFAULT_SIGNATURE, {"pixels": np.zeros((1, 64, 65), np.float32)}, {})
    assert drift.now().rows == 3


def test_of_large_rows_that_wait_only_what_is_looked_at_is_kept() -> None:
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
def test_what_is_no_finite_number_is_drift(drift: Drift, value: float, rows_a_request: int) -> None:
    ask(drift, honest(500))
    strange = np.full(40, value, np.float32)
    for start in range(0, 40, rows_a_request):
        inputs = {"x": strange[start : start + rows_a_request]}
        drift.observe(DEFAULT_SIGNATURE, inputs, {"scores": np.full((rows_a_request, 2), value, np.float32)})
    assert drift.now().rows == 540
    ask(drift, np.full(500, value, np.float32))
    assert psi(drift)["x"] > 0.25


def test_answers_that_are_no_numbers_have_no_label(drift: Drift) -> None:
    scores = np.full((500, 2), 0.5, np.float32)
    scores[::2, 0] = scores[1::2, 1] = np.nan
    drift.observe(DEFAULT_SIGNATURE, {"x": honest(500)}, {"scores": scores})
    found = psi(drift)
    assert found["x"] < 0.1
    assert found["label"] > 0.25
    assert found["confidence"] > 0.25


@pytest.mark.filterwarnings("error")
def test_a_picture_with_an_infinite_value_is_looked_at_without_a_warning() -> None:
    drift, window = of_one_input((9, 9))
    pixels = np.ones((40, 9, 9), np.float32)
    pixels[:, 0, 0] = np.inf
    drift.observe(DEFAULT_SIGNATURE, {"pixels": pixels}, {})
    # An infinite mean has no deviation: the bin for what is no number.
    assert window.rows()[0].tolist() == [1, 2, 1, 1, 1]


def test_requests_without_rows_and_answers_without_their_rows_do_not_count(drift: Drift) -> None:
    ask(drift, np.empty(0, np.float32), 1)
    drift.observe(DEFAULT_SIGNATURE, {"x": np.empty(0, np.float32)}, {"scores": np.empty((0, 2), np.float32)})
    drift.observe(DEFAULT_SIGNATURE, {"x": honest(3)}, {"scores": np.ones((1, 2), np.float32)})
    assert drift.now().rows == 0


@pytest.mark.parametrize(
    ("x", "scores"), [((2, 1), (2, 2)), ((), (2, 2)), ((2,), (2, 3)), ((2,), (2,)), ((0,), (0, 2))]
)
def test_what_is_of_another_shape_than_declared_does_not_count(
    drift: Drift, x: tuple[int, ...], scores: tuple[int, ...]
) -> None:
    drift.observe("serving_default", {"x": np.zeros(x, np.float32)}, {"scores": np.zeros(scores)})
    assert drift.now().rows == 0


def test_several_inputs_are_watched_side_by_side(tmp_path: Path) -> None:
    inputs = signature({"x": tensor("DT_FLOAT", -1), "pair": tensor("DT_INT64", -1, 2)})
    reference = {"rows": 10_000, "inputs": {"pair[0]": UNIFORM, "x": UNIFORM, "pair[1]": UNIFORM}}
    drift = watched(tmp_path, version({DEFAULT_SIGNATURE: inputs}, labels=()), reference)
    x, pairs = honest(500), np.stack([np.full(500, 20), np.arange(500) % 10 + 1], axis=1)
    for row in range(500):
        drift.observe(DEFAULT_SIGNATURE, {"pair": pairs[row : row + 1], "x": x[row : row + 1]}, {})
    found = psi(drift)
    assert list(found) == ["x", "pair[0]", "pair[1]"]
    assert found["pair[0]"] > 0.25 > 0.1 > max(found["x"], found["pair[1]"])


def test_of_very_many_labels_the_rare_ones_are_counted_together(tmp_path: Path) -> None:
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


def test_labels_that_never_come_first_have_a_bin_with_others(tmp_path: Path) -> None:
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
