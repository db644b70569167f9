"""decode_numbers is a short cut: where it answers at all, it answers as the long way does."""

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.api.v1.decode import decode_numbers, decode_predict, parse_body
from service.errors import InvalidRequest
from service.tensors.dtypes import Array
from service.tensors.signature import Signature
from tests.unit.service.fakes import any_shape, signature, tensor

VECTOR = signature({"x": tensor("DT_FLOAT", -1)})
MATRIX = signature({"x": tensor("DT_FLOAT", -1, 2)})
COLUMN = signature({"x": tensor("DT_FLOAT", -1, 1)})
PICTURE = signature({"x": tensor("DT_DOUBLE", -1, 2, 2)})

ROWS = st.recursive(
    st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.none()
    | st.text(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=9,
)


def short(data: bytes, of: Signature) -> Array | None:
    inputs = decode_numbers(data, of)
    return None if inputs is None else inputs["x"]


@pytest.mark.parametrize(
    ("rows", "of"),
    [([1.5, 2, -0.0], VECTOR), ([[1.0, 2.0], [3.0, 4.5]], MATRIX), ([[[0.1, 1e300], [3, 4]]], PICTURE)],
)
def test_floats_take_the_short_cut(rows: Any, of: Signature) -> None:
    array = short(orjson.dumps({"instances": rows}), of)
    assert array is not None
    assert array.dtype == (np.float64 if of is PICTURE else np.float32)
    np.testing.assert_array_equal(array, np.array(rows, array.dtype))


@settings(max_examples=300, deadline=None)
@given(ROWS, st.sampled_from([VECTOR, MATRIX, COLUMN, PICTURE]))
@example([1e300], VECTOR)
@example([[]], MATRIX)
@example([[1.0, 2.0], [3.0]], MATRIX)
@example([[True, 1.0]], MATRIX)
@example([[], [1.0]], COLUMN)
@example([[], [1.0, 2.0]], COLUMN)
@example([], VECTOR)
@example([[[1.0, 2.0], [3.0, 4.0]]], MATRIX)
@example([2**64], VECTOR)
def test_where_the_short_cut_answers_the_long_way_answers_the_same(rows: Any, of: Signature) -> None:
    try:
        data = orjson.dumps({"instances": rows})
    except TypeError:  # orjson writes no integers beyond 64 bits; as text they may come all the same
        data = f'{{"instances": {rows}}}'.replace("'", '"').encode()
    array = short(data, of)
    if array is not None:
        long_way = decode_predict(parse_body(data), of)["x"]
        assert (array.dtype, array.shape) == (long_way.dtype, long_way.shape)
        np.testing.assert_array_equal(array, long_way)


@pytest.mark.parametrize(
    "data",
    [
        b'{"instances": [1.0], "signature_name": "other"}',
        b'{"inputs": [1.0]}',
        b'{"instances": [1.0], "inputs": [1.0]}',
        b'{"instances": [{"x": 1.0}]}',
        b'{"instances": []}',
        b'{"instances": [1e400]}',
        b'{"instances": [NaN]}',
        b'{"instances": [1.0]} x',
        b'{"instances": ["\xff"]}',
        b'{"instances": [1.0}',
        b'{"instances": [1.0]',
        b'{"instances": [1.0], "instances": [2.0]}',
        b'{"instances": [1 2]}',
        b'{"instances": [1.2.3]}',
        b'{"instances": [,1]}',
        b'{"instances": [1,]}',
        b'{"instances": [01]}',
        b'{"instances": [1[2]}',
        b'{"a": {"instances": [1.0]}}',
        b'[{"instances": [1.0]}]',
        b'{"instances": [1.0]}}',
        b"\xff\xfe",
        b"",
    ],
)
def test_everything_else_goes_the_long_way(data: bytes) -> None:
    assert decode_numbers(data, VECTOR) is None


@pytest.mark.parametrize(
    "of",
    [
        signature({"x": tensor("DT_INT32", -1)}),
        signature({"x": any_shape("DT_FLOAT")}),
        signature({"x": tensor("DT_FLOAT", -1, -1)}),
        signature({"x": tensor("DT_FLOAT", 1)}),
        signature({"x": tensor("DT_FLOAT")}),
        signature({"x": tensor("DT_FLOAT", -1), "y": tensor("DT_FLOAT", -1)}),
    ],
    ids=["integers", "any rank", "two free sizes", "a fixed batch", "a scalar", "two inputs"],
)
def test_a_signature_of_another_kind_goes_the_long_way(of: Signature) -> None:
    assert decode_numbers(b'{"instances": [1.0]}', of) is None


def test_what_is_wrong_is_still_said_by_the_long_way() -> None:
    data = b'{"instances": [[1.0, 2.0], [3.0]]}'
    assert decode_numbers(data, MATRIX) is None
    with pytest.raises(InvalidRequest, match=r"instances\[1\] has 1 value where instances\[0\] has 2"):
        decode_predict(parse_body(data), MATRIX)
