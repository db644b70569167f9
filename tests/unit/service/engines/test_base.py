import numpy as np
import pytest

from service.engines.base import outputs_of_no_rows
from service.errors import InvalidRequest
from service.tensors.dtypes import Array
from service.tensors.signature import TensorSpec
from tests.unit.service.fakes import any_shape, signature, tensor

NO_ROWS = np.zeros((0, 2), np.float32)
ROWS = tensor("DT_FLOAT", -1, 2)


def test_no_rows_keep_type_and_row_shape() -> None:
    of = signature({"a": ROWS, "b": ROWS}, {"words": tensor("DT_STRING", -1), "n": tensor("DT_INT64", -1, 3, 4)})
    outputs = outputs_of_no_rows(of, {"a": NO_ROWS, "b": NO_ROWS})
    assert {name: (array.shape, array.dtype) for name, array in outputs.items()} == {
        "words": ((0,), np.dtype(object)),
        "n": ((0, 3, 4), np.dtype(np.int64)),
    }


@pytest.mark.parametrize(
    ("output", "shape"),
    [
        (tensor("DT_FLOAT", -1, -1), "[-1, -1]"),
        (tensor("DT_FLOAT", 1), "[1]"),
        (tensor("DT_FLOAT"), "[]"),
        (any_shape("DT_FLOAT"), "any shape"),
        (tensor("DT_BFLOAT16", -1), "[-1]"),
    ],
)
def test_no_rows_of_an_unknown_kind_are_rejected(output: TensorSpec, shape: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        outputs_of_no_rows(signature({"x": ROWS}, {"y": output}), {"x": NO_ROWS})
    assert str(raised.value).startswith("the inputs have no rows")
    assert f"its output 'y' is declared {shape}; expected at least one row" in str(raised.value)


@pytest.mark.parametrize(
    ("spec", "x"), [(tensor("DT_FLOAT", -1, -1), np.zeros((3, 0))), (any_shape("DT_FLOAT"), NO_ROWS)]
)
def test_rows_without_values_are_rejected(spec: TensorSpec, x: Array) -> None:
    of = signature({"more": ROWS, "x": spec}, {"y": tensor("DT_FLOAT", -1)})
    with pytest.raises(InvalidRequest, match=r"input 'x' has the shape \[\d, \d\], so no values"):
        outputs_of_no_rows(of, {"more": np.ones((len(x), 2)), "x": x})
