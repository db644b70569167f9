import struct
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from service.api.v2 import decode as v2_codec
from service.api.v2.decode import Head
from service.errors import InvalidRequest
from service.http import Response
from service.tensors.dtypes import DATATYPES, DTYPES, Array
from tests.unit.service.fakes import any_shape, loaded_version, signature

IDENTITY = signature({"x": any_shape("DT_FLOAT")}, {"x": any_shape("DT_FLOAT")})
LOADED = loaded_version(IDENTITY)

VALUES: dict[str, list[Any]] = {
    "DT_BOOL": [True, False],
    "DT_INT8": [-(2**7), 2**7 - 1],
    "DT_INT16": [-(2**15), 2**15 - 1],
    "DT_INT32": [-(2**31), 2**31 - 1],
    "DT_INT64": [-(2**63), 2**53 + 1],
    "DT_UINT8": [0, 2**8 - 1],
    "DT_UINT16": [0, 2**16 - 1],
    "DT_UINT32": [0, 2**32 - 1],
    "DT_UINT64": [0, 2**64 - 1],
    "DT_HALF": [0.5, -65504.0],
    "DT_FLOAT": [0.1, -3e38],
    "DT_DOUBLE": [0.1, 1e300],
    "DT_STRING": ["shirt", "Füße"],
}


def array_of(dtype: str) -> Array:
    values = VALUES[dtype]
    return np.array([value.encode() if isinstance(value, str) else value for value in values], DTYPES[dtype])


def request(dtype: str = "DT_FLOAT", shape: list[int] | None = None, **rest: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": shape or [2], "datatype": DATATYPES[dtype], **rest}]}


def decode(body: Any, data: bytes | None = None, dtype: str = "DT_FLOAT") -> Array:
    """What becomes of the only input; with binary data behind the JSON where there is some."""
    head = orjson.dumps(body)
    length = None if data is None else str(len(head)).encode()
    return v2_codec.decode(head + (data or b""), length, signature({"x": any_shape(dtype)}))[1]["x"]


def encode(array: Array, head: dict[str, Any] | None = None) -> Response:
    _, inputs = v2_codec.decode(orjson.dumps(request(data=[1, 2])), None, IDENTITY)
    asked, _ = v2_codec.decode(orjson.dumps(request(data=[1, 2]) | (head or {})), None, IDENTITY)
    assert isinstance(asked, Head)
    assert inputs
    return v2_codec.encode(LOADED, "serving_default", asked, {"x": array})


def parts(answer: Response) -> tuple[Any, bytes]:
    """An answer's JSON, and the bytes behind it."""
    length = int(dict(answer.headers).get("Inference-Header-Content-Length", len(answer.body)))
    return orjson.loads(answer.body[:length]), answer.body[length:]


# Datatypes


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_datatype_is_read_from_json(dtype: str) -> None:
    array = decode(request(dtype, data=VALUES[dtype]), dtype=dtype)
    assert array.dtype == DTYPES[dtype]
    assert array.tolist() == array_of(dtype).tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_datatype_is_written_as_json(dtype: str) -> None:
    body, data = parts(encode(array_of(dtype)))
    (output,) = body["outputs"]
    assert (output["datatype"], output["shape"], data) == (DATATYPES[dtype], [2], b"")
    expected = VALUES[dtype] if dtype == "DT_STRING" else array_of(dtype).tolist()
    assert np.array(output["data"], DTYPES[dtype]).tolist() == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_datatype_is_read_and_written_as_binary_data(dtype: str) -> None:
    body, data = parts(encode(array_of(dtype), {"parameters": {"binary_data_output": True}}))
    (output,) = body["outputs"]
    assert output == {
        "name": "x",
        "datatype": DATATYPES[dtype],
        "shape": [2],
        "parameters": {"binary_data_size": len(data)},
    }
    array = decode(request(dtype, parameters={"binary_data_size": len(data)}), data, dtype)
    assert array.tolist() == array_of(dtype).tolist()


def test_numbers_are_little_endian_and_row_by_row() -> None:
    array = np.asfortranarray(np.array([[1, 2], [3, 4]], np.int32))
    _, data = parts(encode(array, {"parameters": {"binary_data_output": True}}))
    assert data == struct.pack("<4i", 1, 2, 3, 4)


def test_a_string_stands_behind_its_length_in_four_bytes() -> None:
    data = b"\x02\0\0\0ab\0\0\0\0\x01\0\0\0\xff"
    array = decode(request("DT_STRING", [3], parameters={"binary_data_size": 15}), data, "DT_STRING")
    assert array.tolist() == [b"ab", b"", b"\xff"]
    _, written = parts(encode(array, {"parameters": {"binary_data_output": True}}))
    assert written == data


def test_a_truth_value_is_a_byte_0_or_1() -> None:
    asked = request("DT_BOOL", parameters={"binary_data_size": 2})
    assert decode(asked, b"\1\0", "DT_BOOL").tolist() == [True, False]
    with pytest.raises(InvalidRequest, match="has a byte 2 in its binary data; BOOL is 0 or 1"):
        decode(asked, b"\1\2", "DT_BOOL")


def test_numbers_stay_in_the_body_and_are_not_copied() -> None:
    data = np.arange(6, dtype=np.float32).tobytes()
    array = decode(request(shape=[2, 3], parameters={"binary_data_size": 24}), data)
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert not array.flags.owndata


def test_a_tensor_may_be_empty() -> None:
    assert decode(request(shape=[0, 3], data=[])).shape == (0, 3)
    assert decode(request(shape=[2, 0], data=[[], []])).shape == (2, 0)
    assert decode(request(shape=[0, 3], parameters={"binary_data_size": 0}), b"").shape == (0, 3)
    body, data = parts(encode(np.empty((0, 3), np.float32), {"parameters": {"binary_data_output": True}}))
    assert (body["outputs"][0]["shape"], data) == ([0, 3], b"")


@pytest.mark.parametrize("shape", [[0], [0, 2], [2, 0], [2, 0, 3], [1, 0, 0]])
def test_an_empty_tensor_may_be_nested_as_far_as_can_be_seen(shape: list[int]) -> None:
    assert decode(request(shape=shape, data=np.zeros(shape).tolist())).shape == tuple(shape)


def test_a_tensor_may_be_one_number() -> None:
    asked = request(data=[1]) | {"inputs": [{"name": "x", "shape": [], "datatype": "FP32", "data": [1]}]}
    assert decode(asked).shape == ()
    body, _ = parts(encode(np.array(2.5, np.float32)))
    assert body["outputs"][0] | {"data": [2.5], "shape": []} == body["outputs"][0]


def test_what_is_no_number_is_null_in_json_and_itself_in_binary_data() -> None:
    array = np.array([np.nan, np.inf], np.float32)
    assert parts(encode(array))[0]["outputs"][0]["data"] == [None, None]
    _, data = parts(encode(array, {"parameters": {"binary_data_output": True}}))
    assert data == array.tobytes()
    assert np.isnan(decode(request(parameters={"binary_data_size": 8}), data)[0])


def test_bytes_that_are_no_text_are_refused_as_json_with_the_way_out() -> None:
    with pytest.raises(InvalidRequest, match=r"output 'x' holds bytes that are no UTF-8.*'binary_data': true"):
        encode(np.array([b"\xff"], object))


def test_bfloat16_is_the_upper_half_of_a_float32_and_comes_as_one() -> None:
    data = np.array([1.5, -2.0], ">f4").tobytes()
    upper_halves = data[1::-1] + data[5:3:-1]
    array = decode(request("DT_BFLOAT16", parameters={"binary_data_size": 4}), upper_halves, "DT_BFLOAT16")
    assert (array.dtype, array.tolist()) == (np.float32, [1.5, -2.0])
    assert decode(request("DT_BFLOAT16", data=[1.5, -2]), dtype="DT_BFLOAT16").tolist() == [1.5, -2.0]


def test_a_type_without_a_datatype_is_refused_with_the_way_out() -> None:
    with pytest.raises(InvalidRequest, match=r"output 'x' is of the type complex64.*ask for others in 'outputs'"):
        encode(np.array([1j], np.complex64))


# JSON


@pytest.mark.parametrize("dtype", ["DT_FLOAT", "DT_INT32", "DT_STRING", "DT_BOOL"])
def test_data_is_one_list_or_nested_like_the_shape(dtype: str) -> None:
    first, second = VALUES[dtype]
    for data in ([first, second, second, first], [[first, second], [second, first]]):
        array = decode(request(dtype, [2, 2], data=data), dtype=dtype)
        assert array.shape == (2, 2)
        assert array[0].tolist() == array_of(dtype).tolist()


@given(arrays.arrays(np.float32, arrays.array_shapes(max_side=4), elements=st.floats(width=32, allow_nan=False)))
def test_what_is_sent_is_what_is_read(array: Array) -> None:
    shape = list(array.shape)
    finite = np.where(np.isfinite(array), array, 0)
    for data in (finite.ravel().tolist(), finite.tolist()):
        assert np.array_equal(decode(request(shape=shape, data=data)), finite)
    sent = array.tobytes()
    assert np.array_equal(decode(request(shape=shape, parameters={"binary_data_size": len(sent)}), sent), array)


@pytest.mark.parametrize(
    ("dtype", "data"),
    [
        ("DT_FLOAT", [1, "2"]),
        ("DT_FLOAT", [1, True]),
        ("DT_FLOAT", [1, None]),
        ("DT_FLOAT", [1, [2]]),
        ("DT_FLOAT", [[1], [2, 3]]),
        ("DT_FLOAT", [1, 1e39]),
        ("DT_HALF", [1, 65520]),
        ("DT_INT8", [1, 128]),
        ("DT_INT8", [1, 1.5]),
        ("DT_INT64", [1, 2**63]),
        ("DT_UINT8", [1, -1]),
        ("DT_UINT64", [1, -1]),
        ("DT_BOOL", [1, 0]),
        ("DT_STRING", ["a", 1]),
        ("DT_FLOAT", [1, 2, 3]),
        ("DT_FLOAT", [[[1, 2]]]),
        ("DT_FLOAT", {"a": 1}),
        ("DT_FLOAT", "12"),
        ("DT_FLOAT", 1),
        ("DT_FLOAT", None),
    ],
)
def test_wrong_data_is_refused_by_the_input_s_name(dtype: str, data: object) -> None:
    with pytest.raises(InvalidRequest, match=r"input 'x'|inputs\['x'\]\.data"):
        decode(request(dtype, data=data), dtype=dtype)


# Answers


def test_the_answer_names_model_and_version() -> None:
    body, _ = parts(encode(np.array([1], np.float32)))
    assert body == {
        "model_name": "model",
        "model_version": "1",
        "outputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}],
    }


@pytest.mark.parametrize("given_id", ["42", "", "ü"])
def test_the_answer_has_the_id_of_the_request(given_id: str) -> None:
    assert parts(encode(np.array([1]), {"id": given_id}))[0]["id"] == given_id


def test_an_output_in_json_needs_no_length_of_the_json() -> None:
    answer = encode(np.array([1]))
    assert (answer.content_type, answer.headers) == ("application/json", ())


def test_an_output_that_says_so_itself_overrides_binary_data_output() -> None:
    for whole, own in ((True, False), (False, True)):
        asked = {
            "parameters": {"binary_data_output": whole},
            "outputs": [{"name": "x", "parameters": {"binary_data": own}}],
        }
        body, data = parts(encode(np.array([1], np.int8), asked))
        assert ("data" in body["outputs"][0], data) == (not own, b"\1" if own else b"")


def test_classification_of_0_classes_gives_the_scores() -> None:
    asked = {"outputs": [{"name": "x", "parameters": {"classification": 0}}]}
    (output,) = parts(encode(np.array([[1, 2]], np.int8), asked))[0]["outputs"]
    assert (output["datatype"], output["data"]) == ("INT8", [1, 2])


@pytest.mark.parametrize("binary_data", [True, False])
def test_classes_are_strings_in_the_form_that_is_asked_for(binary_data: bool) -> None:
    asked = {"outputs": [{"name": "x", "parameters": {"classification": 1, "binary_data": binary_data}}]}
    body, data = parts(encode(np.array([[1, 2]], np.int8), asked))
    (output,) = body["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [1, 1])
    assert (data or output["data"]) == (b"\3\0\0\0002:1" if binary_data else ["2:1"])
