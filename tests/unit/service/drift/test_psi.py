import numpy as np
import pytest

from service.drift.psi import Measure, chi_square

MANY = 10_000_000
TENTHS = [*[0.1] * 10, 0.0]


def counts(*shares: list[float], rows: float = MANY) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.array(shares) * rows


def test_many_rows_give_the_textbook_psi() -> None:
    measure = Measure([[0.5, 0.5, 0.0]], [MANY])
    expected = (0.9 - 0.5) * np.log(0.9 / 0.5) + (0.1 - 0.5) * np.log(0.1 / 0.5)
    assert measure.psi(counts([0.9, 0.1, 0.0])) == pytest.approx([expected], abs=1e-4)


def test_reference_itself_has_no_psi() -> None:
    assert Measure([TENTHS], [MANY]).psi(counts(TENTHS)).tolist() == [0.0]
    assert Measure([TENTHS], [40]).psi(counts(TENTHS, rows=1_000)).tolist() == [0.0]


@pytest.mark.parametrize("reference_rows", [6, 40, 3_000, 55_000])
@pytest.mark.parametrize("window_rows", [30, 100, 341, 1_000])
@pytest.mark.parametrize("bins", [2, 10, 40])
def test_samples_of_the_same_inputs_stay_below_a_tenth(reference_rows: int, window_rows: int, bins: int) -> None:
    random = np.random.default_rng(1)
    found = []
    for _ in range(200):
        reference = random.multinomial(reference_rows, np.full(bins, 1 / bins)) / reference_rows
        window = random.multinomial(window_rows, np.full(bins, 1 / bins))
        (psi,) = Measure([[*reference, 0.0]], [reference_rows]).psi(np.array([[*window, 0]]))
        found.append(psi)
    assert np.mean(np.array(found) > 0.1) <= 0.005


@pytest.mark.parametrize("reference_rows", [40, 55_000])
@pytest.mark.parametrize("window_rows", [30, 1_000])
def test_one_bin_of_ten_is_far_above_a_quarter(reference_rows: int, window_rows: int) -> None:
    one = counts([1.0, *[0.0] * 10], rows=window_rows)
    assert Measure([TENTHS], [reference_rows]).psi(one)[0] > 0.5


def test_psi_grows_with_rows_unknown_to_training() -> None:
    measure = Measure([[0.0, 1.0, 0.0, 0.0]], [55_000])
    found = [measure.psi(np.array([[strange, 1_000 - strange, 0, 0]]))[0] for strange in (0, 1, 10, 50)]
    assert found[0] == found[1] == 0.0
    assert 0 < found[2] < 0.1
    assert found[3] > 0.25


def test_features_with_different_bins_are_independent() -> None:
    few, many = [0.25, 0.75, 0.0], TENTHS
    window = np.array([[500, 400, 100, *[0] * 8], [*[50] * 5, *[150] * 5, 0]])
    both, one, other = Measure([few, many], [100, 5_000]), Measure([few], [100]), Measure([many], [5_000])
    np.testing.assert_allclose(both.psi(window), [*one.psi(window[:1, :3]), *other.psi(window[1:])])
    np.testing.assert_allclose(both.shift(window), [*one.shift(window[:1, :3]), *other.shift(window[1:])])


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ([0, 250, 500, 250, 0, 0], 0.0),
        ([0, 0, 0, 0, 1_000, 0], 1.0),
        ([1_000, 0, 0, 0, 0, 0], -1.0),
        ([500, 0, 0, 0, 500, 0], 0.0),
        ([0, 0, 0, 1_000, 0, 0], 0.75),
        ([0, 0, 0, 0, 500, 500], 0.5),
    ],
)
def test_shift_has_a_direction(window: list[int], expected: float) -> None:
    measure = Measure([[0.0, 0.25, 0.5, 0.25, 0.0, 0.0]], [1_000])
    assert measure.shift(np.array([window])) == pytest.approx([expected])


@pytest.mark.parametrize(("degrees", "table"), [(1, 10.83), (3, 16.27), (10, 29.59), (100, 149.45)])
def test_chi_square_matches_the_tables(degrees: int, table: float) -> None:
    assert chi_square(degrees) == pytest.approx(table, rel=0.04)
