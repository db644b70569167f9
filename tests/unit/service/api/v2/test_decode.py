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
from tests.unit.service.mutations import ODD_NUMBERS, mutated

ANY = signature({"x": any_shape("DT_FLOAT")}, {"y": any_shape("DT_FLOAT")})
ROWS = signature({"x": tensor("DT_FLOAT", -1, 2)}, {"y": tensor("DT_FLOAT", -1, 2)})
PAIRS = signature({"x": any_shape("DT_FLOAT")}, {"y": tensor("DT_FLOAT", -1, 2)})
LABELLED = loaded_version(PAIRS, config=ServingConfig(labels=("cat", "dog")))
X = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
NUMBERS = [name for name in DTYPES if name != "DT_STRING"]


def one(**changes: Any) -> dict[str, Any]:
    """A request whose only input is X with these changes; None takes a field away."""
    return {"inputs": [{name: value for name, value in (X | changes).items() if value is not None}]}


def binary(size: int, **changes: Any) -> dict[str, Any]:
    return one(data=None, parameters={"binary_data_size": size}, **changes)


def output(**parameters: Any) -> dict[str, Any]:
    return one() | {"outputs": [{"name": "y", "parameters": parameters}]}


def decoded(head: object, data: bytes | None = None, of: Signature = ANY) -> dict[str, Array]:
    """`head`: bytes as they are, anything else as JSON. `data`: what stands behind it."""
    text = head if isinstance(head, bytes) else orjson.dumps(head)
    return decode(text + (data or b""), None if data is None else str(len(text)).encode(), of)[1]


def of_type(dtype: str) -> Signature:
    return signature({"x": any_shape(dtype)})


def with_signatures(*names: str) -> LoadedVersion:
    return LoadedVersion("model", 1, FakeEngine(dict.fromkeys(names, ANY), echo), ServingConfig())


def test_signature_is_the_default_or_the_only_one() -> None:
    assert signature_name(with_signatures("predict_object")) == "predict_object"
    assert signature_name(with_signatures("another", "serving_default")) == "serving_default"
    with pytest.raises(InvalidRequest, match=r"^model has several signatures, none of them .*: 'one', 'two'; ask for"):
        signature_name(with_signatures("one", "two"))


@pytest.mark.parametrize(
    ("dtype", "head", "data", "values"),
    [
        ("DT_STRING", {"datatype": "BYTES", "data": ["shirt", "Füße"]}, None, [[b"shirt", "Füße".encode()]]),
        # As float32
        ("DT_BFLOAT16", {"datatype": "BF16", "data": [1.5, -2]}, None, [[1.5, -2.0]]),
        ("DT_BFLOAT16", binary(4, datatype="BF16")["inputs"][0], b"\xc0\x3f\0\xc0", [[1.5, -2.0]]),
    ],
)
def test_strings_and_bfloat16(dtype: str, head: dict[str, Any], data: bytes | None, values: object) -> None:
    array = decoded({"inputs": [(X if data is None else {}) | head]}, data, of_type(dtype))["x"]
    assert (array.dtype, array.tolist()) == (np.float32 if dtype == "DT_BFLOAT16" else object, values)


@pytest.mark.parametrize("shape", [[], [0, 2], [2, 0, 3]])
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
    ("head", "data", "words"),
    [
        (b"", None, "the body is empty"),
        (b"{", None, "truncated"),
        (b'{"inputs": []} ]', None, f"(byte 16); binary data behind the JSON takes the header {HEAD_LENGTH}"),
        (b'{"inputs": [{"name": "\xff"}]}', None, "'utf-8' codec can't decode"),
        (orjson.dumps(one()).replace(b"[1,2]}", b'["\xff",2]}'), None, "its 'data' is no JSON"),
        ({}, None, "missing required field `inputs`"),
        # Shapes
        (one(shape=[-1, 2]), None, "Expected `int` >= 0 - at `$.inputs[0].shape[0]`"),
        (one(shape=[2**63, 2]), None, "Expected `int` <= 9223372036854775807 - at `$.inputs[0].shape[0]`"),
        (one(shape=[1] * 65), None, "Expected `array` of length <= 64"),
        (one(shape=[2, 2]), None, "expected 4 values in one list, or lists nested like its 'shape' [2, 2]"),
        # 16 · (2**60 + 2) values, and 4 · (2**60 + 2) values of 4 bytes, are 32 modulo 2**64.
        (one(shape=[2**4, 2**60 + 2]), None, "expected 18446744073709551648 values"),
        (one(shape=[2**2, 2**60 + 2]), None, "expected 4611686018427387912 values"),
        (one(shape=[0, 2**62], data=[]), None, "which is too large"),
        # Inputs
        (one(datatype="DT_FLOAT"), None, "input 'x' has the datatype 'DT_FLOAT'; expected 'FP32'"),
        (one(name="z"), None, "unknown input 'z'; expected 'x'"),
        ({"inputs": [X, X]}, None, "input 'x' is there twice"),
        (one(data=None), None, "input 'x' has neither 'data' nor the parameter 'binary_data_size'"),
        (one(parameters={"shared_memory_region": "r"}), None, "input 'x': there is no shared memory"),
        (one(data=[1, "2"]), None, "inputs['x'].data[1] is the string '2'"),
        (one(data=1), None, "input 'x': its 'data' has the shape []"),
        # Outputs
        (one() | {"outputs": [{"name": "z"}]}, None, "unknown output 'z'; expected 'y'"),
        (one() | {"outputs": [{"name": "y"}, {"name": "y"}]}, None, "output 'y' is wanted twice"),
        (output(classification=-1), None, "Expected `int` >= 0"),
        (output(shared_memory_region="r"), None, "output 'y': there is no shared memory"),
        # Binary data
        (binary(8), bytes(7), "binary_data_size is 8, and 7 bytes are left of the body"),
        (binary(2**63 - 1), bytes(8), "binary_data_size is 9223372036854775807, and 8 bytes are left"),
        (binary(-8), bytes(8), "Expected `int` >= 0 - at `$.inputs[0].parameters.binary_data_size`"),
        (one(), bytes(3), "3 bytes are left of the body behind the last input's"),
        (binary(4), bytes(4), "has 4 bytes of binary data; a tensor of FP32 and shape [1, 2] has 8"),
        (one(parameters={"binary_data_size": 8}), bytes(8), "has both 'data' and 'binary_data_size'"),
    ],
)
def test_error(head: object, data: bytes | None, words: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        decoded(head, data, ROWS)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("begin", "level"), [(b'{"inputs": ', b"["), (b'{"unknown": ', b'{"a":'), (b'{"inputs": [{"data": ', b"[")]
)
def test_json_nested_too_deep(begin: bytes, level: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decoded(begin + level * 1_000_000)


def test_data_nested_too_deep() -> None:
    data = b"[" * 100_000 + b"1" + b"]" * 100_000 + b"}"
    # orjson's own words depend on the Python it is built for.
    with pytest.raises(InvalidRequest, match=r"(?i)nested too deep|recursion limit|depth limit"):
        decoded(orjson.dumps(one()).replace(b"[1,2]}", data))


def test_inputs_take_their_bytes_in_the_order_of_the_json() -> None:
    of = signature(dict.fromkeys("abc", tensor("DT_INT8", -1)))
    given = {"shape": [1], "datatype": "INT8"}
    sized = given | {"parameters": {"binary_data_size": 1}}
    head = {"inputs": [sized | {"name": "b"}, given | {"name": "c", "data": [3]}, sized | {"name": "a"}]}
    arrays = decoded(head, b"\2\1", of)
    assert {name: array.tolist() for name, array in arrays.items()} == {"a": [1], "b": [2], "c": [3]}
    with pytest.raises(InvalidRequest, match="input 'a': binary_data_size is 1, and 0 bytes are left"):
        decoded(head, b"\2", of)


def test_raw_body() -> None:
    data = np.array([[1, 2], [3, 4]], np.float32).tobytes()
    head, arrays = decode(data, b"0", ROWS)
    assert (head.wants_binary, arrays["x"].tolist()) == (True, [[1, 2], [3, 4]])
    with pytest.raises(InvalidRequest, match="takes a model with one input; this one has 'x', 'z'"):
        decode(data, b"0", signature(dict.fromkeys("xz", tensor("DT_FLOAT", -1))))


@pytest.mark.parametrize("length", ["-1", "", "1_0", "99999", "9" * 30, "ten", "²"])
def test_invalid_length(length: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"^{HEAD_LENGTH}: .*; expected the length of the JSON"):
        decode(orjson.dumps(one()), length.encode("latin-1"), ANY)
    with pytest.raises(InvalidRequest, match=r"^the request's JSON: Input data was truncated$"):
        decode(orjson.dumps(one()), b"20", ANY)


# A place in a tensor's shape, or a number of bytes, that lies.
SIZES = st.integers(0, 5) | st.sampled_from([*ODD_NUMBERS, -1, 2**62, 2**63 - 1, 2**63, 2**64])


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bytes, bytes]:
    """A type, a JSON head that may lie about what comes behind it, and that."""
    dtype = draw(st.sampled_from(list(DTYPES)))
    content = draw(st.binary(max_size=64))
    given_input: dict[str, Any] = {"name": "x", "datatype": DATATYPES[dtype]}
    given_input["shape"] = draw(st.lists(SIZES, max_size=5))
    kind = draw(st.sampled_from(["binary", "json", "both", "neither"]))
    if kind in ("binary", "both"):
        given_input["parameters"] = {"binary_data_size": draw(st.just(len(content)) | SIZES)}
    if kind in ("json", "both"):
        given_input["data"] = draw(st.lists(st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(), max_size=4))
    head: dict[str, Any] = {"inputs": [given_input] * draw(st.sampled_from([1, 1, 1, 0, 2]))}
    if draw(st.booleans()):
        head["parameters"] = {"binary_data_output": draw(st.booleans())}
    if draw(st.booleans()):
        head["outputs"] = [{"name": "y", "parameters": {"classification": draw(SIZES)}}]
    return dtype, json.dumps(head).encode(), content


def check_answered(dtype: str, body: bytes, length: int | None) -> None:
    of = signature({"x": any_shape(dtype)})
    # Any other error is a failure.
    with suppress(InvalidRequest):
        head, inputs = decode(body, None if length is None else str(length).encode(), of)
        if "x" in inputs:
            encode(LABELLED, "serving_default", head, {"y": inputs["x"]})


@given(requests(), st.sampled_from([None, 0, 1]) | SIZES, st.booleans())
def test_fuzz_sizes(sent: tuple[str, bytes, bytes], length: int | None, is_right: bool) -> None:
    dtype, head, content = sent
    check_answered(dtype, head + content, len(head) if is_right else length)


@given(requests(), st.data())
def test_fuzz_damaged_bodies(sent: tuple[str, bytes, bytes], data: st.DataObject) -> None:
    dtype, head, content = sent
    body = data.draw(mutated(st.just(head + content)))
    check_answered(dtype, body, min(len(head), len(body)))


AS_BINARY = {"parameters": {"binary_data_output": True}}


def encoded(array: Array, head: dict[str, Any]) -> Response:
    request_head, _ = decode(orjson.dumps(one() | head), None, PAIRS)
    return encode(LABELLED, "serving_default", request_head, {"y": array})


def parts(response: Response) -> tuple[Any, bytes]:
    """A response's only output, and the bytes behind the JSON."""
    length = int(dict(response.headers).get(HEAD_LENGTH, len(response.body)))
    (found,) = orjson.loads(response.body[:length])["outputs"]
    return found, response.body[length:]


@pytest.mark.parametrize("head", [{}, {"id": ""}, {"id": "ü", "outputs": []}])
def test_response_has_the_id_of_the_request(head: dict[str, Any]) -> None:
    response = encoded(np.array([1], np.float32), head)
    assert (response.status, response.content_type, response.headers) == (200, "application/json", ())
    outputs = [{"name": "y", "datatype": "FP32", "shape": [1], "data": [1.0]}]
    assert orjson.loads(response.body) == {**head, "model_name": "model", "model_version": "1", "outputs": outputs}


@pytest.mark.parametrize(("whole", "own", "is_binary"), [(True, False, False), (False, True, True), (True, None, True)])
def test_binary_data_of_an_output_overrides_that_of_the_request(whole: bool, own: bool | None, is_binary: bool) -> None:
    head = output(binary_data=own) | {"parameters": {"binary_data_output": whole}}
    response = encoded(np.array([1], np.int8), head)
    values = {"parameters": {"binary_data_size": 1}} if is_binary else {"data": [1]}
    assert parts(response) == ({"name": "y", "datatype": "INT8", "shape": [1], **values}, b"\1" if is_binary else b"")
    assert response.content_type == ("application/octet-stream" if is_binary else "application/json")


@pytest.mark.parametrize(
    ("parameters", "datatype", "values"),
    [
        ({"classification": 0}, "INT8", [1, 2]),
        ({"classification": 1}, "BYTES", ["2:1:dog"]),
        ({"classification": 1, "binary_data": True}, "BYTES", b"\7\0\0\0002:1:dog"),
    ],
)
def test_classification(parameters: dict[str, Any], datatype: str, values: object) -> None:
    found, data = parts(encoded(np.array([[1, 2]], np.int8), output(**parameters)))
    assert (found["datatype"], data or found["data"]) == (datatype, values)


def test_types_of_numpy_without_a_type_of_tensorflow() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for array, datatype, data in (
        (np.array([1.5, np.inf], ml_dtypes.bfloat16), "BF16", [1.5, None]),
        (np.array([b"ab", b"c"]), "BYTES", ["ab", "c"]),
    ):
        found, _ = parts(encoded(array, {}))
        assert (found["datatype"], found["data"]) == (datatype, data)


def test_output_without_json() -> None:
    with pytest.raises(InvalidRequest, match=r"output 'y' holds bytes that are no UTF-8.*'binary_data': true"):
        encoded(np.array([b"\xff"], object), {})
    with pytest.raises(InvalidRequest, match=r"output 'y' is of the type complex64.*ask for others in 'outputs'"):
        encoded(np.array([1j], np.complex64), {})


def check_round_trips(array: Array, dtype: str) -> None:
    shape, datatype = list(array.shape), DATATYPES[dtype]
    found, data = parts(encoded(array, AS_BINARY))
    assert found == {"name": "y", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(data)}}
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
    found, _ = parts(encoded(array, {}))
    assert (found["shape"], found["datatype"]) == (list(array.shape), DATATYPES[dtype])
    assert [value is not None for value in found["data"]] == np.isfinite(array).ravel().tolist()
    finite = np.where(np.isfinite(array), array, array.dtype.type(0))
    for values in (finite.ravel().tolist(), finite.tolist()) if array.shape else ([finite.item()],):
        sent = json.dumps(one(shape=found["shape"], datatype=found["datatype"], data=values)).encode()
        assert np.array_equal(decoded(sent, of=of_type(dtype))["x"], finite)
    again, _ = parts(encoded(finite, {}))
    assert np.array_equal(np.array(again["data"], array.dtype), finite.ravel())


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_bytes_round_trips(values: list[bytes]) -> None:
    check_round_trips(np.array(values, object), "DT_STRING")
