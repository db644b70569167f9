"""Tensors as the JSON of v1. Messages hold the words of TensorFlow Serving's own tests (json_tensor_test.cc)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from service.api.v1.decode import decode_predict, parse_body
from service.api.v1.encode import encode_predictions, encode_results
from service.errors import InvalidRequest
from service.tensors.dtypes import DTYPES, Array
from tests.unit.service.fakes import any_shape, signature

NUMBERS = [name for name in DTYPES if name != "DT_STRING"]
FLOATS = ["DT_HALF", "DT_FLOAT", "DT_DOUBLE"]
CUBE = np.arange(12).reshape(2, 3, 2)


def strings(*values: bytes) -> Array:
    return np.array(values, object)


def rows(**outputs: Array) -> Any:
    return orjson.loads(encode_predictions(outputs, is_row_format=True))["predictions"]


def columns(**outputs: Array) -> Any:
    return orjson.loads(encode_predictions(outputs, is_row_format=False))["outputs"]


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (CUBE, CUBE.tolist()),
        (np.asfortranarray(CUBE), CUBE.tolist()),
        (np.array([1, -2], ">i4"), [1, -2]),
        (np.array([-(2**63), 2**63 - 1]), [-(2**63), 2**63 - 1]),
        (np.zeros((0, 2), np.int32), []),
        (np.array([True, False]), [True, False]),
        (strings(b"a", "ü".encode(), b"\xff"), ["a", "ü", {"b64": "/w=="}]),
        (np.array([[b"ab", b"c"]]), [["ab", "c"]]),
        (np.array(["text"], object), ["text"]),
    ],
)
def test_one_output(output: Array, expected: object) -> None:
    assert rows(y=output) == columns(y=output) == expected


def test_several_outputs() -> None:
    outputs = {"n": np.array([[1], [2]]), "d": np.array([8.0, 9.5], np.float32), "t": strings(b"a", b"b")}
    assert rows(**outputs) == [{"n": [1], "d": 8.0, "t": "a"}, {"n": [2], "d": 9.5, "t": "b"}]
    assert columns(**outputs) == {"n": [[1], [2]], "d": [8.0, 9.5], "t": ["a", "b"]}
    assert rows(t=np.empty((0, 1, 2), object), y=np.zeros((0, 3))) == []
    assert columns(y=np.array(2.5, np.float32), z=np.array(b"a", object)) == {"y": 2.5, "z": "a"}


def test_name_that_ends_in_bytes_asks_for_base64() -> None:
    assert rows(raw_bytes=strings(b"foo", b"\xff")) == [{"b64": "Zm9v"}, {"b64": "/w=="}]
    assert rows(raw_bytes=strings(b"a"), bytes_raw=strings(b"a")) == [{"raw_bytes": {"b64": "YQ=="}, "bytes_raw": "a"}]
    assert rows(n_bytes=np.array([1], np.uint8)) == [1]


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_have_the_digits_of_their_type_and_a_point(dtype: str) -> None:
    text = encode_predictions({"y": np.array([0.2, 3, -0.5], DTYPES[dtype])}, is_row_format=True)
    digits = b"0.19995117" if dtype == "DT_HALF" else b"0.2"
    assert text == b'{"predictions":[%s,3.0,-0.5]}' % digits


@pytest.mark.parametrize("dtype", [*(DTYPES[name] for name in FLOATS), "bfloat16"])
def test_nan_and_infinities_are_null(dtype: Any) -> None:
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    numbers = np.array([np.nan, np.inf, -np.inf, 1.5], dtype)
    assert rows(y=numbers) == [None, None, None, 1.5]
    assert rows(y=numbers, z=numbers)[0] == {"y": None, "z": None}


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"y": np.array(2.5)}, "Tensor name: y has no shape information, so no rows"),
        ({"y": np.zeros(2), "z": np.array(b"a", object)}, "Tensor name: z has no shape information, so no rows"),
        ({"y": np.zeros(2), "z": np.zeros((1, 1))}, "Tensor name: z has inconsistent batch size: 1 expecting: 2"),
        ({"y": np.zeros((0, 3)), "z": np.zeros((1, 3))}, "Tensor name: z has inconsistent batch size: 1 expecting: 0"),
    ],
)
def test_outputs_without_common_rows_are_columns_only(outputs: dict[str, Array], message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        encode_predictions(outputs, is_row_format=True)
    assert str(raised.value) == f'{message}; ask in the column format {{"inputs": ...}}'


@pytest.mark.parametrize("encode", [rows, columns])
def test_outputs_without_json(encode: Callable[..., Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"^Cannot convert empty tensor map to JSON"):
        encode()
    with pytest.raises(InvalidRequest, match=r"^Failed to write JSON value for tensor type: complex64: the output 'y'"):
        encode(y=np.zeros(1, np.complex64))


def test_encode_results() -> None:
    rankings = [[["a", np.float32(0.5)], ["b", np.float32("nan")]]]
    assert encode_results(rankings) == b'{"results":[[["a",0.5],["b",null]]]}'
    assert encode_results(np.array([0.25, 1, np.nan, np.inf])) == b'{"results":[0.25,1.0,null,null]}'


@pytest.mark.parametrize("dtype", NUMBERS)
@settings(max_examples=settings().max_examples // 5)
@given(data=st.data())
def test_numbers_round_trips(dtype: str, data: st.DataObject) -> None:
    elements = {"allow_nan": False, "allow_infinity": False} if dtype in FLOATS else {}
    shapes = numpy_st.array_shapes(min_dims=1, max_dims=4, max_side=4)
    array: Array = data.draw(numpy_st.arrays(DTYPES[dtype], shapes, elements=elements))
    values, of = array.tolist(), signature({"x": any_shape(dtype)})
    for body in ({"instances": values}, {"instances": [{"x": value} for value in values]}, {"inputs": values}):
        decoded = decode_predict(parse_body(orjson.dumps(body)), of)["x"]
        assert (decoded.dtype, decoded.shape) == (array.dtype, array.shape)
        assert np.array_equal(decoded, array)
    for output in (array, array.T):
        expected = np.array(columns(y=output), array.dtype).reshape(output.shape)
        assert np.array_equal(expected, output)


@given(st.lists(st.binary(), max_size=5))
def test_bytes_round_trips(values: list[bytes]) -> None:
    of = signature({"x": any_shape("DT_STRING")})
    for output in ("x", "x_bytes"):
        body = {"inputs": columns(**{output: strings(*values)})}
        assert decode_predict(parse_body(orjson.dumps(body)), of)["x"].tolist() == values
