import numpy as np
import pytest

from service.errors import InvalidRequest
from service.tensors.dtypes import check_shape, shape_text, size_of
from service.tensors.signature import TensorSpec
from tests.unit.service.fakes import any_shape, tensor


@pytest.mark.parametrize(
    ("shape", "declared"),
    [((2, 3), (2, 3)), ((2, 3), (-1, 3)), ((0, 3), (-1, 3)), ((), ()), ((5, 4, 3), (-1, -1, -1))],
)
def test_declared_shapes_are_accepted(shape: tuple[int, ...], declared: tuple[int, ...]) -> None:
    check_shape("x", np.zeros(shape), tensor("DT_FLOAT", *declared))


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_a_shape_that_is_not_held_accepts_any(shape: tuple[int, ...]) -> None:
    check_shape("x", np.zeros(shape), TensorSpec("x:0", "DT_FLOAT", (-1, 1), is_held=False))


@pytest.mark.parametrize("shape", [(), (1,), (2, 3, 4)])
def test_a_free_rank_accepts_any_shape(shape: tuple[int, ...]) -> None:
    check_shape("x", np.zeros(shape), any_shape("DT_FLOAT"))


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
def test_other_shapes_are_rejected(shape: tuple[int, ...], declared: tuple[int, ...], message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        check_shape("x", np.zeros(shape), tensor("DT_FLOAT", *declared))
    assert str(raised.value) == message


def test_shapes_as_text() -> None:
    assert (shape_text(()), shape_text((1,)), shape_text((1, -1))) == ("[]", "[1]", "[1, -1]")


def test_size_includes_the_strings() -> None:
    assert size_of({"x": np.zeros((2, 3), np.float32)}) == 24
    strings = np.array([b"ab", b"c" * 10], object)
    assert size_of({"x": np.zeros(1, np.uint8), "words": strings}) == 1 + strings.nbytes + 12
