import numpy as np
import pytest

from service.errors import InvalidRequest
from service.tensors.dtypes import check_shape, size_of
from service.tensors.signature import TensorSpec
from tests.unit.service.fakes import tensor


@pytest.mark.parametrize(
    ("shape", "declared"),
    [((2, 3), (2, 3)), ((0, 3), (-1, 3)), ((), ()), ((5, 4, 3), (-1, -1, -1)), ((), None), ((2, 3, 4), None)],
)
def test_fitting_shape_is_accepted(shape: tuple[int, ...], declared: tuple[int, ...] | None) -> None:
    check_shape("x", np.zeros(shape), TensorSpec("x:0", "DT_FLOAT", declared))


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_shape_that_is_not_held_accepts_any(shape: tuple[int, ...]) -> None:
    check_shape("x", np.zeros(shape), TensorSpec("x:0", "DT_FLOAT", (-1, 1), is_held=False))


@pytest.mark.parametrize(
    ("shape", "declared"), [((2,), (-1, 3)), ((2, 4), (-1, 3)), ((1, 2, 3), (-1, 3)), ((), (-1,)), ((1,), ())]
)
def test_other_shape_is_rejected(shape: tuple[int, ...], declared: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequest) as raised:
        check_shape("x", np.zeros(shape), tensor("DT_FLOAT", *declared))
    told = f"input 'x' has the shape {list(shape)}; expected {list(declared)} (-1: any size)"
    assert str(raised.value) == told


def test_size_includes_the_strings() -> None:
    strings = np.array([b"ab", b"c" * 10], object)
    assert size_of({"x": np.zeros((2, 3), np.float32), "words": strings}) == 24 + strings.nbytes + 12
