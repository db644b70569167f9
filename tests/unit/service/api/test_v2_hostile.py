"""Requests that are wrong on purpose, after the forms that Triton's own tests try: each gets 400 and a sentence."""

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.v2 import decode as v2_codec
from service.errors import InvalidRequest
from service.tensors.dtypes import DATATYPES
from service.tensors.signature import Signature
from tests.unit.service.conftest import MakeService
from tests.unit.service.fakes import any_shape, error, signature, tensor

PAIRS = signature({"x": tensor("DT_FLOAT", -1, 2)}, {"y": tensor("DT_FLOAT", -1, 2)})
ANY = signature({"x": any_shape("DT_FLOAT")})
TEXTS = signature({"x": tensor("DT_STRING", -1)})
ONE = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}


def one(**changes: Any) -> dict[str, Any]:
    """A right request for PAIRS, with these fields of its input changed; None takes one away."""
    given = ONE | changes
    return {"inputs": [{name: value for name, value in given.items() if value is not None}]}


def binary(size: int, **changes: Any) -> dict[str, Any]:
    return one(data=None, parameters={"binary_data_size": size}, **changes)


def refusal(head: object, data: bytes | None = None, of: Signature = PAIRS) -> str:
    text = head if isinstance(head, bytes) else orjson.dumps(head)
    length = None if data is None else str(len(text)).encode()
    with pytest.raises(InvalidRequest) as caught:
        v2_codec.decode(text + (data or b""), length, of)
    return str(caught.value)


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
    ],
)
def test_what_is_no_inference_request_is_refused_with_the_place(body: object, words: str) -> None:
    assert words in refusal(body)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ([-1, 2], "Expected `int` >= 0 - at `$.inputs[0].shape[0]`"),
        ([2, -5], "Expected `int` >= 0 - at `$.inputs[0].shape[1]`"),
        ([1.0, 2], "Expected `int`, got `float`"),
        ([True, 2], "Expected `int`, got `bool`"),
        ("12", "Expected `array`, got `str` - at `$.inputs[0].shape`"),
        ([2, 2], "expected 4 values in one list, or lists nested like its 'shape' [2, 2]"),
        ([0, 2], "expected 0 values"),
        # 16 · (2**60 + 2) and 4 · (2**60 + 2) · 4 bytes are 32 modulo 2**64.
        ([2**4, 2**60 + 2], "expected 18446744073709551648 values"),
        ([2**2, 2**60 + 2], "expected 4611686018427387912 values"),
        ([1] * 65, "Expected `array` of length <= 64"),
    ],
)
def test_a_shape_that_is_not_the_data_s_is_refused(shape: object, words: str) -> None:
    assert words in refusal(one(shape=shape))


def test_a_size_beyond_64_bits_is_refused() -> None:
    body = orjson.dumps(one()).replace(b"[1,2],", b"[99999999999999999999,2],")
    assert "Expected `int` <= 9223372036854775807 - at `$.inputs[0].shape[0]`" in refusal(body)


@pytest.mark.parametrize("shape", [[0, 2**62], [2**62, 0, 2**62]])
def test_an_empty_tensor_of_a_shape_that_no_memory_could_hold_is_refused(shape: list[int]) -> None:
    assert "which is too large" in refusal(one(shape=shape, data=[]), of=ANY)
    assert "which is too large" in refusal(binary(0, shape=shape), b"", ANY)


@pytest.mark.parametrize("datatype", ["FP64", "INT32", "BYTES", "fp32", "DT_FLOAT", ""])
def test_a_datatype_that_is_not_the_model_s_is_refused(datatype: str) -> None:
    assert f"input 'x' has the datatype {datatype!r}; expected 'FP32'" in refusal(one(datatype=datatype))


def test_an_unknown_input_is_refused_with_the_known_ones() -> None:
    assert refusal(one(name="z")) == "unknown input 'z'; expected 'x'"


def test_an_input_that_is_there_twice_is_refused() -> None:
    assert refusal({"inputs": [ONE, ONE]}) == "input 'x' is there twice"


def test_an_input_without_data_is_refused() -> None:
    assert "has neither 'data' nor the parameter 'binary_data_size'" in refusal(one(data=None))


def test_an_input_with_data_of_both_kinds_is_refused() -> None:
    assert "has both 'data' and 'binary_data_size'" in refusal(one(parameters={"binary_data_size": 8}), bytes(8))


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ([{"name": "z"}], "unknown output 'z'; expected 'y'"),
        ([{"name": "y"}, {"name": "y"}], "output 'y' is wanted twice"),
        ([{}], "missing required field `name` - at `$.outputs[0]`"),
        ({"name": "y"}, "Expected `array | null`, got `object` - at `$.outputs`"),
        ([{"name": "y", "parameters": {"classification": -1}}], "Expected `int` >= 0"),
        ([{"name": "y", "parameters": {"classification": "3"}}], "Expected `int`, got `str`"),
        ([{"name": "y", "parameters": {"binary_data": 1}}], "Expected `bool | null`, got `int`"),
        ([{"name": "y", "parameters": {"shared_memory_region": "r"}}], "there is no shared memory"),
    ],
)
def test_wrong_outputs_are_refused_before_the_model_runs(outputs: object, words: str) -> None:
    assert words in refusal(one() | {"outputs": outputs})


def test_shared_memory_is_refused() -> None:
    asked = one(data=None, parameters={"shared_memory_region": "r", "shared_memory_byte_size": 8})
    assert refusal(asked) == "input 'x': there is no shared memory; send 'data' or binary data"


@pytest.mark.parametrize("depth", [65, 120, 1_000, 100_000])
def test_lists_that_are_nested_too_deep_are_refused(depth: int) -> None:
    data = b"[" * depth + b"1" + b"]" * depth
    words = refusal(orjson.dumps(one()).replace(b"[1,2]}", data + b"}"))
    assert "nested too deep" in words or "recursion limit" in words.lower()


@pytest.mark.parametrize("begin", [b'{"inputs": ', b'{"unknown": ', b'{"parameters": {"a": ', b'{"inputs": [{"data": '])
def test_what_is_nested_too_deep_elsewhere_is_refused_as_well(begin: bytes) -> None:
    refusal(begin + b"[" * 1_000_000)
    refusal(begin + b'{"a":' * 1_000_000)


# Binary data


@pytest.mark.parametrize("size", [-8, -(2**63)])
def test_a_negative_size_is_refused(size: int) -> None:
    assert "Expected `int` >= 0 - at `$.inputs[0].parameters.binary_data_size`" in refusal(binary(size), bytes(8))


@pytest.mark.parametrize(
    ("size", "data", "words"),
    [
        (8, bytes(7), "binary_data_size is 8, and 7 bytes are left of the body"),
        (2**63 - 1, bytes(8), "binary_data_size is 9223372036854775807, and 8 bytes are left"),
        (8, bytes(9), "1 bytes are left of the body behind the last input's"),
        (4, bytes(4), "has 4 bytes of binary data; a tensor of FP32 and shape [1, 2] has 8"),
        (16, bytes(16), "has 16 bytes of binary data; a tensor of FP32 and shape [1, 2] has 8"),
        (7, bytes(7), "has 7 bytes of binary data; a tensor of FP32 and shape [1, 2] has 8"),
        (0, b"", "has 0 bytes of binary data; a tensor of FP32 and shape [1, 2] has 8"),
    ],
)
def test_a_size_that_lies_is_refused(size: int, data: bytes, words: str) -> None:
    assert words in refusal(binary(size), data)


def test_sizes_whose_product_overflows_64_bits_are_refused() -> None:
    asked = binary(32, shape=[2**2, 2**60 + 2])
    assert "has 32 bytes of binary data; a tensor of FP32 and shape [4, 1152921504606846978]" in refusal(
        asked, bytes(32)
    )


def test_bytes_that_no_input_claims_are_refused() -> None:
    assert refusal(one(), bytes(3)) == "3 bytes are left of the body behind the last input's"


def test_inputs_take_their_bytes_in_the_order_of_the_json() -> None:
    pair = signature({"a": tensor("DT_INT8", -1), "b": tensor("DT_INT8", -1)})
    asked = {
        "inputs": [
            {"name": name, "shape": [1], "datatype": "INT8", "parameters": {"binary_data_size": 1}} for name in "ba"
        ]
    }
    text = orjson.dumps(asked)
    _, arrays = v2_codec.decode(text + b"\1\2", str(len(text)).encode(), pair)
    assert (arrays["b"].tolist(), arrays["a"].tolist()) == ([1], [2])
    assert "input 'a': binary_data_size is 1, and 0 bytes are left" in refusal(asked, b"\1", pair)


def test_binary_data_without_the_header_is_refused_with_the_header_s_name() -> None:
    assert "takes the header Inference-Header-Content-Length" in refusal(orjson.dumps(binary(8)) + bytes(8))


@pytest.mark.parametrize("length", ["-1", "+1", "1e2", "0x10", " ", "", "1_0", "99999", "9" * 30, "ten"])
def test_a_length_of_the_json_that_is_none_is_refused(length: str) -> None:
    with pytest.raises(InvalidRequest, match=r"Inference-Header-Content-Length: .*; expected the length of the JSON"):
        v2_codec.decode(orjson.dumps(one()), length.encode(), PAIRS)


@pytest.mark.parametrize("length", [1, 20])
def test_a_length_that_cuts_the_json_is_refused(length: int) -> None:
    with pytest.raises(InvalidRequest, match="the request's JSON"):
        v2_codec.decode(orjson.dumps(one()), str(length).encode(), PAIRS)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\1", "1 bytes are left of its binary data behind 0 strings"),
        (b"\1\0\0\0a\2\0", "2 bytes are left of its binary data behind 1 strings"),
        (b"\2\0\0\0a", "string 0 is said to have 2 bytes, and 1 are left"),
        (b"\xff\xff\xff\xff", "string 0 is said to have 4294967295 bytes, and 0 are left"),
        (b"\1\0\0\0a", "has 1 strings in its binary data; the shape [2] has 2"),
        (b"\0\0\0\0" * 3, "has 3 strings in its binary data; the shape [2] has 2"),
        (b"", "has 0 strings in its binary data"),
    ],
)
def test_strings_with_wrong_lengths_are_refused(data: bytes, words: str) -> None:
    assert words in refusal(binary(len(data), shape=[2], datatype="BYTES"), data, TEXTS)


WHOLE = orjson.dumps(binary(8) | {"id": "7", "outputs": [{"name": "y"}]})


@given(
    st.integers(0, len(WHOLE) + 8),
    st.binary(max_size=6),
    st.integers(0, 6),
    st.one_of(
        st.none(), st.integers(0, len(WHOLE) + 12).map(lambda length: str(length).encode()), st.binary(max_size=3)
    ),
)
def test_a_request_damaged_anywhere_is_read_or_refused(at: int, put: bytes, cut: int, length: bytes | None) -> None:
    body = WHOLE + bytes(8)
    with suppress(InvalidRequest):
        v2_codec.decode(body[:at] + put + body[at + cut :], length, PAIRS)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 2**64 - 1), st.floats(allow_nan=False), st.sampled_from("xy")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "data", "b64"]), inner),
    max_leaves=6,
)


@given(st.sampled_from([*ONE, "parameters"]), json_values, st.sampled_from(["DT_FLOAT", "DT_INT8", "DT_STRING"]))
def test_a_field_of_any_other_value_is_read_or_refused(field: str, value: Any, dtype: str) -> None:
    asked = {"inputs": [ONE | {"datatype": DATATYPES[dtype]} | {field: value}]}
    with suppress(InvalidRequest):
        v2_codec.decode(orjson.dumps(asked), None, signature({"x": any_shape(dtype)}))


# By HTTP


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", {}),
        (one(shape=[2, -5]), {}),
        (one(shape=[2**4, 2**60 + 2]), {}),
        ({"inputs": [ONE, ONE]}, {}),
        (one() | {"outputs": [{"name": "y"}, {"name": "y"}]}, {}),
        (one(shape=[1, 3], data=[1, 2, 3]), {}),
        (orjson.dumps(binary(8)) + bytes(8), {}),
        (orjson.dumps(binary(8)) + bytes(8), {"Inference-Header-Content-Length": "-1"}),
        (bytes(7), {"Inference-Header-Content-Length": "0"}),
        (b"[" * 100_000, {}),
    ],
)
def test_the_service_answers_400_and_lives_on(make_service: MakeService, body: object, headers: dict[str, str]) -> None:
    service = make_service()
    service.add(PAIRS, lambda inputs: {"y": inputs["x"]})
    response = service.post("/v2/models/model/infer", body, headers=headers)
    assert response.status_code == 400
    assert error(response)
    assert service.post("/v2/models/model/infer", one()).status_code == 200
