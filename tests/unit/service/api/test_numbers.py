"""The fast decoders take only what they decode as the slow ones do, and leave them all the rest."""

import json
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.api import numbers
from service.api.numbers import MAX_KEPT_BYTES, decode_data, decode_rows
from service.api.v1.decode import decode_predict, parse_body
from service.tensors.dtypes import DTYPES
from service.tensors.json import array_from_json
from service.tensors.signature import TensorSpec
from tests.unit.service.fakes import any_shape, signature, tensor

VECTOR, COLUMN, MATRIX = tensor("DT_FLOAT", -1), tensor("DT_FLOAT", -1, 1), tensor("DT_FLOAT", -1, 2)
PICTURE = tensor("DT_DOUBLE", -1, 2, 2)
NUMBERS = ["DT_FLOAT", "DT_DOUBLE", "DT_HALF", "DT_INT8", "DT_INT64", "DT_UINT8", "DT_UINT64"]

edges: list[Any] = [-1, 127, 128, 255, 256, 65504, 65520, 2**53 + 1, 3.4028235e38, 3.5e38, 1.5, -0.0, True, "1", {}, []]
leaves = (
    st.none() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(edges)
)
nested_lists = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4), max_leaves=12)


@pytest.fixture(scope="module", autouse=True, params=["simdjson", "orjson"])
def parser(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "orjson":
            patch.setattr(numbers, "simdjson", None)
        else:
            pytest.importorskip("simdjson")
        yield


@pytest.mark.parametrize(
    ("rows", "spec"),
    [
        ([1.5, 2, -0.0], VECTOR),
        ([[1.0, 2.0], [3.0, 4.5]], MATRIX),
        ([[[0.1, 1e300], [3, 4]]], PICTURE),
        ([0.5] * MAX_KEPT_BYTES, VECTOR),
    ],
)
def test_rows_of_floats_are_decoded(rows: Any, spec: TensorSpec) -> None:
    array = decode_rows(orjson.dumps({"instances": rows}), spec)
    assert array is not None
    assert array.dtype == DTYPES[spec.dtype]
    np.testing.assert_array_equal(array, np.array(rows, array.dtype))


@given(nested_lists, st.sampled_from([VECTOR, COLUMN, MATRIX, PICTURE]))
@example([1e300], VECTOR)
@example([[1.0, 2.0], [3.0]], MATRIX)
@example([[True, 1.0]], MATRIX)
@example([[], [1.0]], COLUMN)
@example([[], [1.0, 2.0]], COLUMN)
@example([2**64], VECTOR)
def test_rows_are_those_of_the_slow_decoder(rows: Any, spec: TensorSpec) -> None:
    data = json.dumps({"instances": rows}).encode()
    array = decode_rows(data, spec)
    if array is not None:
        expected = decode_predict(parse_body(data), signature({"x": spec}))["x"]
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    "data",
    [
        b'{"instances": [1.0], "signature_name": "other"}',
        b'{"instances": [1.0], "inputs": [1.0]}',
        b'{"instances": []}',
        b'{"instances": [1e400]}',
        b'{"instances": [NaN]}',
        b'{"instances": [1.0}',
        b'{"instances": [1.0], "instances": [2.0]}',
        b'{"instances": [1[2]}',
        b'{"a": {"instances": [1.0]}}',
        b"",
    ],
)
def test_other_bodies_are_left(data: bytes) -> None:
    assert decode_rows(data, VECTOR) is None


@pytest.mark.parametrize(
    "spec",
    [tensor("DT_INT32", -1), any_shape("DT_FLOAT"), tensor("DT_FLOAT", -1, -1), tensor("DT_FLOAT", 1)],
)
def test_other_tensors_are_left(spec: TensorSpec) -> None:
    assert decode_rows(b'{"instances": [1.0]}', spec) is None


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("shape", [(6,), (1, 6), (2, 3), (3, 2, 1), (6, 1, 1, 1)])
def test_flat_and_nested_data_is_decoded(dtype: str, shape: tuple[int, ...]) -> None:
    expected = np.arange(6, dtype=DTYPES[dtype]).reshape(shape)
    for data in (expected.tolist(), expected.ravel().tolist()):
        for text in (orjson.dumps(data), orjson.dumps(data, option=orjson.OPT_INDENT_2)):
            array = decode_data(text, DTYPES[dtype], shape)
            assert array is not None
            assert np.array_equal(array, expected)


@given(nested_lists, st.sampled_from(NUMBERS), st.lists(st.integers(0, 4), max_size=3))
def test_data_is_that_of_the_slow_decoder(value: Any, dtype: str, shape: list[int]) -> None:
    data = json.dumps(value).encode()
    array = decode_data(data, DTYPES[dtype], tuple(shape))
    if array is not None:
        expected = array_from_json(orjson.loads(data), any_shape(dtype), "data")
        assert expected.shape in (tuple(shape), (prod(shape),))
        assert (array.shape, array.dtype) == (tuple(shape), DTYPES[dtype])
        assert array.ravel().tolist() == expected.ravel().tolist()


@pytest.mark.parametrize(
    ("data", "dtype", "shape"),
    [
        (b"[[1,2],[3]]", "DT_FLOAT", (3,)),
        (b"[[1,2],[3,4]]", "DT_FLOAT", (4,)),
        (b"[[1],[2,3,4]]", "DT_FLOAT", (2, 2)),
        (b"[[[1,2],[3,4]]]", "DT_FLOAT", (2, 2)),
        (b"[1e39]", "DT_FLOAT", (1,)),
        (b"[1.5]", "DT_INT8", (1,)),
        (b"[1]", "DT_BOOL", (1,)),
        (b'["["]', "DT_STRING", (1,)),
        (b'{"name":[]}', "DT_FLOAT", (1,)),
        (b"[]", "DT_FLOAT", (0,)),
        (b"[1]", "DT_FLOAT", (2**60,)),
    ],
)
def test_other_data_is_left(data: bytes, dtype: str, shape: tuple[int, ...]) -> None:
    assert decode_data(data, DTYPES[dtype], shape) is None
