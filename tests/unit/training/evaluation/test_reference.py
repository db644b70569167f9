import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.drift.features import STATISTICS
from training.evaluation.reference import deciles, reference


def test_deciles_hold_a_tenth_each() -> None:
    found = deciles(np.random.default_rng(0).normal(size=10_000))
    assert len(found["edges"]) == 9
    np.testing.assert_allclose(found["shares"], 0.1, atol=1e-3)
    np.testing.assert_allclose(found["edges"][4], 0, atol=0.05)


@pytest.mark.parametrize("value", [0.0, 1 / 3, -2e-9, 1e30])
def test_constant_has_a_bin_between_two_empty_ones(value: float) -> None:
    found = deciles(np.full(50, value))
    assert found["shares"] == [0, 1, 0]
    assert found["edges"][0] < value < found["edges"][1]


def test_few_values_have_a_bin_each() -> None:
    expected = {"edges": [-0.002, 0.5, 1.5, 2.002], "shares": [0, 0.25, 0.5, 0.25, 0]}
    assert deciles(np.array([0, 1, 1, 2] * 25)) == expected


def test_frequent_value_leaves_bins_for_the_others() -> None:
    found = deciles(np.concatenate([np.zeros(900), np.arange(1, 101)]))
    assert found["shares"][1] == 0.9
    assert found["edges"][1] < 1
    assert sum(found["shares"]) == pytest.approx(1)


def test_only_finite_values_count() -> None:
    assert deciles(np.array([np.nan, np.inf, -np.inf, 1.0, 1.0]))["shares"] == [0, 1, 0]
    assert deciles(np.array([np.nan])) == {"edges": [], "shares": [1]}


@given(st.lists(st.floats(-1e12, 1e12) | st.sampled_from([0.0, 1.0, 255.0]), min_size=1, max_size=60))
def test_edges_increase_and_shares_add_up(values: list[float]) -> None:
    found = deciles(np.array(values))
    edges, shares = found["edges"], found["shares"]
    assert (np.diff(edges) > 0).all()
    assert len(shares) == len(edges) + 1
    assert sum(shares) == pytest.approx(1, abs=1e-4)
    json.dumps(found, allow_nan=False)


def test_classifier_adds_labels_and_confidence() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2]])
    found = reference({"x": np.arange(6, dtype=np.float32)}, probabilities, ("hat", "sock"))
    assert found == {
        "rows": 6,
        "inputs": {"x": deciles(np.arange(6.0))},
        "held_out_rows": 4,
        "labels": {"hat": 0.75, "sock": 0.25},
        "confidence": deciles(np.array([0.9, 0.6, 0.7, 0.8])),
    }


def test_slices_of_inputs_give_one_reference() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2_500, 9, 9), np.uint8)
    found = reference({"pixels": pixels})
    assert list(found["inputs"]) == [f"pixels {each}" for each in STATISTICS]
    means = deciles(pixels.mean(axis=(1, 2), dtype=np.float64))
    np.testing.assert_allclose(found["inputs"]["pixels mean"]["edges"], means["edges"], rtol=1e-5)
