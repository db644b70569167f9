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
def test_a_fitting_shape_is_accepted(shape: tuple[int, ...], declared: tuple[int, ...] | None) -> None:
    check_shape("x", np.zeros(shape), TensorSpec("x:0", "DT_FLOAT", declared))


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_a_shape_that_is_not_held_accepts_any(shape: tuple[int, ...]) -> None:
    check_shape("x", np.zeros(shape), TensorSpec("x:0", "DT_FLOAT", (-1, 1), is_held=False))


@pytest.mark.parametrize(
    ("shape", "declared", "message"),
    [
        ((2,), (-1, 3), "input 'x' has the shape [2]; expected [-1, 3] (-1: any size)"),
        ((2, 4), (-1, 3), "input 'x' has the shape [2, 4]; expected [-1, 3] (-1: any size)"),
        ((1, 2, 3), (-1, 3), "input 'x' has the shape [1, 2, 3]; expected [-1, 3] (-1: any size)"),
        ((), (-1,), "input 'x' has the shape []; expected [-1] (-1: any size)"),
        ((1,), (), "input 'x' has the shape [1]; expected [] (-1: any size)"),
    ],
)
def test_another_shape_is_rejected(shape: tuple[int, ...], declared: tuple[int, ...], message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        check_shape("x", np.zeros(shape), tensor("DT_FLOAT", *declared))
    assert str(raised.value) == message


def test_size_includes_the_strings() -> None:
    strings = np.array([b"ab", b"c" * 10], object)
    assert size_of({"x": np.zeros((2, 3), np.float32), "words": strings}) == 24 + strings.nbytes + 12
