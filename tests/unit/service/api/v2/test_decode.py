"""Requests of v2 as tensors, tensors as its responses, and requests that are wrong on purpose, many of them after those
of Triton's own tests."""

import json
from contextlib import suppress
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from service.api.v2.decode import HEAD_LENGTH, decode, signature_name
from service.api.v2.encode import encode
from service.errors import InvalidRequest
from service.http import Response
from service.inference.version import LoadedVersion
from service.serving_config import ServingConfig
from service.tensors.dtypes import DATATYPES, DTYPES, Array
from service.tensors.signature import Signature
from tests.unit.service.fakes import FakeEngine, any_shape, echo, loaded_version, signature, tensor

ANY = signature({"x": any_shape("DT_FLOAT")}, {"y": any_shape("DT_FLOAT")})
ROWS = signature({"x": tensor("DT_FLOAT", -1, 2)}, {"y": tensor("DT_FLOAT", -1, 2)})
X = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
NUMBERS = [name for name in DTYPES if name != "DT_STRING"]
# At the ends of their types
VALUES: dict[str, list[Any]] = {
    "DT_BOOL": [True, False],
    "DT_HALF": [0.5, -65504.0],
    "DT_FLOAT": [0.1, -3e38],
    "DT_DOUBLE": [0.1, 1e300],
    "DT_STRING": ["shirt", "Füße"],
    **{name: [int(np.iinfo(of).min), int(np.iinfo(of).max)] for name, of in DTYPES.items() if of.kind in "iu"},
}


def one(**changes: Any) -> dict[str, Any]:
    """A request whose only input is X with these changes; None takes a field away."""
    return {"inputs": [{name: value for name, value in (X | changes).items() if value is not None}]}


def binary(size: int, **changes: Any) -> dict[str, Any]:
    return one(data=None, parameters={"binary_data_size": size}, **changes)


def decoded(head: object, data: bytes | None = None, of: Signature = ANY) -> dict[str, Array]:
    """`head`: bytes as they are, anything else as JSON. `data`: what stands behind it."""
    text = head if isinstance(head, bytes) else orjson.dumps(head)
    return decode(text + (data or b""), None if data is None else str(len(text)).encode(), of)[1]


def error(head: object, data: bytes | None = None, of: Signature = ROWS) -> str:
    with pytest.raises(InvalidRequest) as raised:
        decoded(head, data, of)
    return str(raised.value)


def of_type(dtype: str) -> Signature:
    return signature({"x": any_shape(dtype)})


# The signature


@pytest.mark.parametrize("names", [["predict_object"], ["serving_default", "another"]])
def test_signature_name(names: list[str]) -> None:
    loaded = LoadedVersion("model", 1, FakeEngine(dict.fromkeys(names, ANY), echo), ServingConfig())
    assert signature_name(loaded) == names[0]


def test_several_signatures_without_a_default() -> None:
    signatures = {"predict_images": ANY, "predict_object": ANY}
    with pytest.raises(InvalidRequest) as raised:
        signature_name(LoadedVersion("model", 1, FakeEngine(signatures, echo), ServingConfig()))
    assert str(raised.value) == (
        "model has several signatures, none of them 'serving_default': 'predict_images', 'predict_object'; ask for one "
        "by its name, which the Open Inference Protocol has no place for: POST /v1/models/model:predict with "
        '"signature_name"'
    )


# The JSON


@pytest.mark.parametrize("dtype", VALUES)
def test_data(dtype: str) -> None:
    first, second = (value.encode() if isinstance(value, str) else value for value in VALUES[dtype])
    expected = np.array([[first, second], [second, first]], DTYPES[dtype])
    sent, tnes = VALUES[dtype], VALUES[dtype][::-1]
    for data in (sent + tnes, [sent, tnes]):
        array = decoded(one(datatype=DATATYPES[dtype], shape=[2, 2], data=data), of=of_type(dtype))["x"]
        assert (array.dtype, array.tolist()) == (DTYPES[dtype], expected.tolist())


def test_bfloat16_is_decoded_as_float32() -> None:
    sent = {"datatype": "BF16", "shape": [2]}
    for head, data in ((one(**sent, data=[1.5, -2]), None), (binary(4, **sent), b"\xc0\x3f\0\xc0")):
        array = decoded(head, data, of_type("DT_BFLOAT16"))["x"]
        assert (array.dtype, array.tolist()) == (np.float32, [1.5, -2.0])


@pytest.mark.parametrize("shape", [[], [0], [0, 2], [2, 0], [2, 0, 3], [1, 0, 0]])
def test_empty_tensors_and_scalars(shape: list[int]) -> None:
    data = np.zeros(shape).tolist()
    assert decoded(one(shape=shape, data=data if shape else [1]))["x"].shape == tuple(shape)


@pytest.mark.parametrize(
    "more",
    [
        {"id": None, "inputs": [X | {"parameters": None}], "parameters": None, "outputs": None},
        {"model_name": "other", "parameters": {"sequence_id": 7, "priority": 1, "timeout": 5, "headers": {}}},
        {"inputs": [X | {"parameters": {"content_type": "np"}}]},
        {"outputs": [{"name": "y", "parameters": {"content_type": "np"}}]},
    ],
)
def test_unknown_and_null_fields_are_ignored(more: dict[str, Any]) -> None:
    assert decoded(b"\xef\xbb\xbf" + orjson.dumps(one() | more))["x"].tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is empty"),
        (b"{", "truncated"),
        (b"[]", "Expected `object`, got `array`"),
        (b"nonsense", "JSON is malformed"),
        (b'{"inputs": []} ]', "trailing characters"),
        (b'{"inputs": [{"name": "\xff"}]}', "'utf-8' codec can't decode"),
        (orjson.dumps(one()).replace(b"[1,2]}", b"[NaN,2]}"), "JSON is malformed: invalid character"),
        (orjson.dumps(one()).replace(b"[1,2]}", b'["\xff",2]}'), "its 'data' is no JSON"),
        ({}, "missing required field `inputs`"),
        ({"inputs": {"x": [1, 2]}}, "Expected `array`, got `object` - at `$.inputs`"),
        ({"inputs": [1]}, "Expected `object`, got `int` - at `$.inputs[0]`"),
        (one(name=None), "missing required field `name`"),
        (one(name=1), "Expected `str`, got `int` - at `$.inputs[0].name`"),
        (one(shape=None), "missing required field `shape`"),
        (one(datatype=None), "missing required field `datatype`"),
        (one() | {"id": 7}, "Expected `str | null`, got `int` - at `$.id`"),
        (one() | {"parameters": []}, "Expected `object | null`, got `array` - at `$.parameters`"),
        (one() | {"parameters": {"binary_data_output": 1}}, "Expected `bool | null`, got `int`"),
        # Shapes
        (one(shape=[-1, 2]), "Expected `int` >= 0 - at `$.inputs[0].shape[0]`"),
        (one(shape=[2, -5]), "Expected `int` >= 0 - at `$.inputs[0].shape[1]`"),
        (one(shape=[1.0, 2]), "Expected `int`, got `float`"),
        (one(shape=[True, 2]), "Expected `int`, got `bool`"),
        (one(shape="12"), "Expected `array`, got `str` - at `$.inputs[0].shape`"),
        (one(shape=[1] * 65), "Expected `array` of length <= 64"),
        (one(shape=[2**63, 2]), "Expected `int` <= 9223372036854775807 - at `$.inputs[0].shape[0]`"),
        (one(shape=[2, 2]), "expected 4 values in one list, or lists nested like its 'shape' [2, 2]"),
        (one(shape=[0, 2]), "expected 0 values"),
        # 16 · (2**60 + 2) values, and 4 · (2**60 + 2) values of 4 bytes, are 32 modulo 2**64.
        (one(shape=[2**4, 2**60 + 2]), "expected 18446744073709551648 values"),
        (one(shape=[2**2, 2**60 + 2]), "expected 4611686018427387912 values"),
        (one(shape=[0, 2**62], data=[]), "which is too large"),
        # Inputs
        *(
            (one(datatype=datatype), f"input 'x' has the datatype {datatype!r}; expected 'FP32'")
            for datatype in ("FP64", "INT32", "BYTES", "fp32", "DT_FLOAT", "")
        ),
        (one(name="z"), "unknown input 'z'; expected 'x'"),
        ({"inputs": [X, X]}, "input 'x' is there twice"),
        (one(data=None), "input 'x' has neither 'data' nor the parameter 'binary_data_size'"),
        (
            one(parameters={"shared_memory_region": "r"}),
            "input 'x': there is no shared memory; send 'data' or binary data",
        ),
        # Outputs
        (one() | {"outputs": [{"name": "z"}]}, "unknown output 'z'; expected 'y'"),
        (one() | {"outputs": [{"name": "y"}, {"name": "y"}]}, "output 'y' is wanted twice"),
        (one() | {"outputs": [{}]}, "missing required field `name` - at `$.outputs[0]`"),
        (one() | {"outputs": {"name": "y"}}, "Expected `array | null`, got `object` - at `$.outputs`"),
        *(
            (one() | {"outputs": [{"name": "y", "parameters": parameters}]}, words)
            for parameters, words in [
                ({"classification": -1}, "Expected `int` >= 0"),
                ({"classification": "3"}, "Expected `int`, got `str`"),
                ({"binary_data": 1}, "Expected `bool | null`, got `int`"),
                ({"shared_memory_region": "r"}, "there is no shared memory"),
            ]
        ),
    ],
)
def test_error(body: object, words: str) -> None:
    assert words in error(body)


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
        *(("DT_FLOAT", data) for data in ({"a": 1}, "12", 1)),
    ],
)
def test_error_in_data_names_the_input(dtype: str, data: object) -> None:
    message = error(one(shape=[2], datatype=DATATYPES[dtype], data=data), of=of_type(dtype))
    assert message.startswith(("input 'x'", "inputs['x'].data"))


@pytest.mark.parametrize("depth", [65, 100_000])
def test_data_nested_too_deep(depth: int) -> None:
    data = b"[" * depth + b"1" + b"]" * depth
    message = error(orjson.dumps(one()).replace(b"[1,2]}", data + b"}"))
    # orjson's own words depend on the Python it is built for.
    assert any(words in message.lower() for words in ("nested too deep", "recursion limit", "depth limit"))


@pytest.mark.parametrize("begin", [b'{"inputs": ', b'{"unknown": ', b'{"parameters": {"a": ', b'{"inputs": [{"data": '])
@pytest.mark.parametrize("level", [b"[", b'{"a":'])
def test_json_nested_too_deep(begin: bytes, level: bytes) -> None:
    assert error(begin + level * 1_000_000)


# Binary data


def test_inputs_take_their_bytes_in_the_order_of_the_json() -> None:
    of = signature(dict.fromkeys("abc", tensor("DT_INT8", -1)))
    given = {"shape": [1], "datatype": "INT8"}
    sized = given | {"parameters": {"binary_data_size": 1}}
    head = {"inputs": [sized | {"name": "b"}, given | {"name": "c", "data": [3]}, sized | {"name": "a"}]}
    assert {name: array.tolist() for name, array in decoded(head, b"\2\1", of).items()} == {
        "a": [1],
        "b": [2],
        "c": [3],
    }
    assert "input 'a': binary_data_size is 1, and 0 bytes are left" in error(head, b"\2", of)


def test_raw_body() -> None:
    data = np.array([[1, 2], [3, 4]], np.float32).tobytes()
    head, arrays = decode(data, b"0", ROWS)
    assert (head.wants_binary, arrays["x"].tolist()) == (True, [[1, 2], [3, 4]])
    with pytest.raises(InvalidRequest, match="takes a model with one input; this one has 'x', 'z'"):
        decode(data, b"0", signature(dict.fromkeys("xz", tensor("DT_FLOAT", -1))))


@pytest.mark.parametrize(
    ("head", "data", "words"),
    [
        (binary(8), bytes(7), "binary_data_size is 8, and 7 bytes are left of the body"),
        (binary(2**63 - 1), bytes(8), "binary_data_size is 9223372036854775807, and 8 bytes are left"),
        (binary(8), bytes(9), "1 bytes are left of the body behind the last input's"),
        (one(), bytes(3), "3 bytes are left of the body behind the last input's"),
        (binary(4), bytes(4), "has 4 bytes of binary data; a tensor of FP32 and shape [1, 2] has 8"),
        (one(parameters={"binary_data_size": 8}), bytes(8), "has both 'data' and 'binary_data_size'"),
        *(
            (binary(size), bytes(8), "Expected `int` >= 0 - at `$.inputs[0].parameters.binary_data_size`")
            for size in (-8, -(2**63))
        ),
    ],
)
def test_error_in_binary_data(head: object, data: bytes, words: str) -> None:
    assert words in error(head, data)


def test_binary_data_needs_the_header() -> None:
    assert f"takes the header {HEAD_LENGTH}" in error(orjson.dumps(binary(8)) + bytes(8))


@pytest.mark.parametrize("length", ["-1", "+1", "1e2", "0x10", " ", "", "1_0", "99999", "9" * 30, "ten", "²"])
def test_invalid_length(length: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"^{HEAD_LENGTH}: .*; expected the length of the JSON"):
        decode(orjson.dumps(one()), length.encode("latin-1"), ANY)


@pytest.mark.parametrize("length", [b"1", b"20"])
def test_length_that_cuts_the_json(length: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"^the request's JSON"):
        decode(orjson.dumps(one()), length, ANY)


any_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 2**64 - 1), st.floats(allow_nan=False), st.sampled_from("xy")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "data", "b64"]), inner),
    max_leaves=6,
)


@given(st.sampled_from([*X, "parameters"]), any_json, st.sampled_from(["DT_FLOAT", "DT_INT8", "DT_STRING"]))
def test_fuzz_fields(field: str, value: Any, dtype: str) -> None:
    # Any other error is a failure.
    with suppress(InvalidRequest):
        decoded({"inputs": [X | {"datatype": DATATYPES[dtype]} | {field: value}]}, of=of_type(dtype))


# Responses


PAIRS = signature({"x": any_shape("DT_FLOAT")}, {"y": tensor("DT_FLOAT", -1, 2)})
LABELLED = loaded_version(PAIRS, config=ServingConfig(labels=("cat", "dog")))


def encoded(array: Array, **head: Any) -> Response:
    request_head, _ = decode(orjson.dumps(one() | head), None, PAIRS)
    return encode(LABELLED, "serving_default", request_head, {"y": array})


def parts(response: Response) -> tuple[Any, bytes]:
    """A response's JSON, and the bytes behind it."""
    length = int(dict(response.headers).get(HEAD_LENGTH, len(response.body)))
    return orjson.loads(response.body[:length]), response.body[length:]


def as_binary(array: Array) -> tuple[Any, bytes]:
    """The output as binary data: its JSON, and its bytes."""
    body, data = parts(encoded(array, parameters={"binary_data_output": True}))
    (output,) = body["outputs"]
    return output, data


def test_response() -> None:
    response = encoded(np.array([1], np.float32))
    assert (response.status, response.content_type, response.headers) == (200, "application/json", ())
    assert orjson.loads(response.body) == {
        "model_name": "model",
        "model_version": "1",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [1.0]}],
    }


def test_binary_response() -> None:
    response = encoded(np.array([1], np.int8), parameters={"binary_data_output": True})
    assert response.content_type == "application/octet-stream"
    body, data = parts(response)
    assert body["outputs"] == [{"name": "y", "datatype": "INT8", "shape": [1], "parameters": {"binary_data_size": 1}}]
    assert data == b"\1"


@pytest.mark.parametrize("given_id", ["42", "", "ü"])
def test_response_has_the_id_of_the_request(given_id: str) -> None:
    assert parts(encoded(np.array([1]), id=given_id))[0]["id"] == given_id


@pytest.mark.parametrize(("whole", "own"), [(True, False), (False, True)])
def test_binary_data_of_an_output_overrides_that_of_the_request(whole: bool, own: bool) -> None:
    outputs = [{"name": "y", "parameters": {"binary_data": own}}]
    body, data = parts(encoded(np.array([1], np.int8), parameters={"binary_data_output": whole}, outputs=outputs))
    assert ("data" in body["outputs"][0], data) == (not own, b"\1" if own else b"")


@pytest.mark.parametrize(
    ("parameters", "datatype", "shape", "values"),
    [
        ({"classification": 0}, "INT8", [1, 2], [1, 2]),
        ({"classification": 1}, "BYTES", [1, 1], ["2:1:dog"]),
        ({"classification": 1, "binary_data": True}, "BYTES", [1, 1], b"\7\0\0\0002:1:dog"),
    ],
)
def test_classification(parameters: dict[str, Any], datatype: str, shape: list[int], values: object) -> None:
    body, data = parts(encoded(np.array([[1, 2]], np.int8), outputs=[{"name": "y", "parameters": parameters}]))
    (output,) = body["outputs"]
    assert (output["datatype"], output["shape"], data or output["data"]) == (datatype, shape, values)


def test_types_of_numpy_without_a_type_of_tensorflow() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for array, datatype, data in (
        (np.array([1.5, np.inf], ml_dtypes.bfloat16), "BF16", [1.5, None]),
        (np.array([b"ab", b"c"]), "BYTES", ["ab", "c"]),
    ):
        (output,) = parts(encoded(array))[0]["outputs"]
        assert (output["datatype"], output["data"]) == (datatype, data)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([b"\xff"], object), r"output 'y' holds bytes that are no UTF-8.*'binary_data': true"),
        (np.array([1j], np.complex64), r"output 'y' is of the type complex64.*ask for others in 'outputs'"),
    ],
)
def test_output_without_json(array: Array, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        encoded(array)


# What is encoded is decoded again


def check_round_trips(array: Array, dtype: str) -> None:
    shape, datatype = list(array.shape), DATATYPES[dtype]
    output, data = as_binary(array)
    assert output == {"name": "y", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(data)}}
    again = decoded(binary(len(data), shape=shape, datatype=datatype), data, of_type(dtype))["x"]
    assert (again.dtype, again.shape) == (array.dtype, array.shape)
    assert again.tobytes() == array.tobytes() if array.dtype.kind != "O" else again.tolist() == array.tolist()


@pytest.mark.parametrize("dtype", NUMBERS)
@settings(max_examples=settings().max_examples // 5)
@given(data=st.data())
def test_numbers_round_trips(dtype: str, data: st.DataObject) -> None:
    shapes = numpy_st.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    array: Array = data.draw(numpy_st.arrays(DTYPES[dtype], shapes))
    check_round_trips(array, dtype)
    (output,) = parts(encoded(array))[0]["outputs"]
    assert (output["shape"], output["datatype"]) == (list(array.shape), DATATYPES[dtype])
    is_number = np.isfinite(array).ravel()
    assert [value is not None for value in output["data"]] == is_number.tolist()
    finite = np.where(np.isfinite(array), array, array.dtype.type(0))
    for values in (finite.ravel().tolist(), finite.tolist()) if array.shape else ([finite.item()],):
        sent = json.dumps(one(shape=output["shape"], datatype=output["datatype"], data=values)).encode()
        assert np.array_equal(decoded(sent, of=of_type(dtype))["x"], finite)
    (again,) = parts(encoded(finite))[0]["outputs"]
    assert np.array_equal(np.array(again["data"], array.dtype), finite.ravel())


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_bytes_round_trips(values: list[bytes]) -> None:
    check_round_trips(np.array(values, object), "DT_STRING")
