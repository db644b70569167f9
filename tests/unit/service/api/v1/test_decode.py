import math
from contextlib import suppress
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from service.api.v1.decode import Body, decode_examples, decode_predict, parse_body
from service.api.v1.encode import encode_predictions, encode_results
from service.errors import InvalidRequest
from service.tensors.dtypes import DTYPES, Array
from service.tensors.signature import Signature, TensorSpec
from tests.unit.service.fakes import any_shape, signature

ONE = signature({"x": any_shape("DT_FLOAT")})
TWO = signature({"a": any_shape("DT_INT64"), "b": any_shape("DT_STRING")})
TEXT = signature({"text": any_shape("DT_STRING")})


def body(fields: object) -> Body:
    return parse_body(orjson.dumps(fields))


def predict(fields: object, of: Signature = ONE) -> dict[str, Any]:
    return {name: array.tolist() for name, array in decode_predict(body(fields), of).items()}


def refusal(fields: object, of: Signature = ONE) -> str:
    with pytest.raises(InvalidRequest) as raised:
        decode_predict(body(fields), of)
    return str(raised.value)


def strings(*values: bytes) -> Array:
    array = np.empty(len(values), object)
    array[:] = values
    return array


# The body


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", 'JSON Parse error: The document is empty; expected {"instances": [...]} or {"inputs": ...}'),
        (b"[1]", 'Is not object: the body is a JSON list; expected {"instances": [...]} or {"inputs": ...}'),
        (b"3", 'Is not object: the body is a JSON number; expected {"instances": [...]} or {"inputs": ...}'),
        (b"null", 'Is not object: the body is a JSON null; expected {"instances": [...]} or {"inputs": ...}'),
        (b'"x"', 'Is not object: the body is a JSON string; expected {"instances": [...]} or {"inputs": ...}'),
        (b"true", 'Is not object: the body is a JSON boolean; expected {"instances": [...]} or {"inputs": ...}'),
    ],
)
def test_a_body_that_is_no_json_object_is_refused_with_what_was_expected(data: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse_body(data)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b'{"instances": [1.0', "line 1 column"),
        (b'{"instances":\n [1,]}', "line 2 column"),
        (b"{'instances': [1.0]}", "line 1 column 2"),
        (b'{"instances": [NaN]}', "JSON has no NaN and no Infinity, at line 1 column 16"),
        (b'{"instances": [1.0, -Infinity]}', "JSON has no NaN and no Infinity, at line 1 column"),
        (b'{"instances": [Infinity]}', "line 1 column 16"),
        (b'{"instances": [1e400]}', "line 1 column 16"),
        (b"instances=1", "line 1 column 1"),
        (b'{"a": "\xff"}', "line 1 column"),
        (b'{"a": "\\ud800"}', "line 1 column"),
        (b'{"instances": [1.0]} more', "line 1 column"),
        (b'{"instances": ' + b"[" * 2000 + b"1" + b"]" * 2000 + b"}", "line 1 column"),
    ],
)
def test_broken_json_is_refused_with_the_place(data: bytes, place: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse_body(data)
    assert str(raised.value).startswith("JSON Parse error: ")
    assert place in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "name"),
    [({}, "serving_default"), ({"signature_name": ""}, "serving_default"), ({"signature_name": "other"}, "other")],
)
def test_a_body_names_its_signature_or_means_the_default(fields: dict[str, Any], name: str) -> None:
    assert body(fields).signature_name == name


@pytest.mark.parametrize("name", [None, 1, ["serving_default"], {}, True])
def test_a_signature_name_that_is_no_string_is_refused(name: object) -> None:
    with pytest.raises(InvalidRequest, match="'signature_name' key must be a string value"):
        body({"signature_name": name})


# :predict


def test_rows_without_names_are_the_only_input() -> None:
    assert predict({"instances": [1.0, 2]}) == {"x": [1.0, 2.0]}
    assert predict({"instances": [[1, 2], [3, 4]]}) == {"x": [[1, 2], [3, 4]]}


def test_rows_with_names_become_columns() -> None:
    rows = [{"a": 1, "b": "x"}, {"b": {"b64": "AP8="}, "a": 2}]
    assert predict({"instances": rows}, TWO) == {"a": [1, 2], "b": [b"x", b"\x00\xff"]}


def test_a_single_input_may_be_named() -> None:
    assert predict({"instances": [{"x": [1.0]}]}) == {"x": [[1.0]]}
    assert predict({"inputs": {"x": [1.0]}}) == {"x": [1.0]}


def test_rows_of_bytes_are_values_and_not_names() -> None:
    assert predict({"instances": [{"b64": "AP8="}, "x"]}, TEXT) == {"text": [b"\x00\xff", b"x"]}
    assert predict({"inputs": {"b64": "AP8="}}, TEXT) == {"text": b"\x00\xff"}


def test_columns_are_taken_as_they_are() -> None:
    assert predict({"inputs": [[1.0]]}) == {"x": [[1.0]]}
    assert predict({"inputs": 1.5}) == {"x": 1.5}
    assert predict({"inputs": {"a": [1, 2, 3], "b": "x"}}, TWO) == {"a": [1, 2, 3], "b": b"x"}


def test_a_64_bit_number_is_exact() -> None:
    rows = [{"a": 2**63 - 1, "b": ""}]
    assert predict({"instances": rows}, TWO)["a"] == [2**63 - 1]


def test_keys_that_nobody_knows_are_ignored() -> None:
    assert predict({"instances": [1.0], "comment": "x"}) == {"x": [1.0]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "Missing 'inputs' or 'instances' key; expected {\"instances\": [...]} or {\"inputs\": ...}"),
        (
            {"instance": [1]},
            "Missing 'inputs' or 'instances' key; expected {\"instances\": [...]} or {\"inputs\": ...}",
        ),
        (
            {"instances": [1], "inputs": [1]},
            "Not formatted correctly: expecting only one of 'inputs' or 'instances' keys to exist; both are there",
        ),
        ({"instances": 1.0}, "Expecting 'instances' to be a list/array with an entry per row, not a JSON number"),
        (
            {"instances": {"x": [1]}},
            "Expecting 'instances' to be a list/array with an entry per row, not a JSON object",
        ),
        ({"instances": None}, "Expecting 'instances' to be a list/array with an entry per row, not a JSON null"),
        ({"instances": "abc"}, "Expecting 'instances' to be a list/array with an entry per row, not a JSON string"),
        ({"instances": []}, "No values in 'instances' array; expected at least one row"),
        (
            {"instances": [{"y": 1}]},
            "Failed to process element: 0 key: y of 'instances' list. JSON object: does not have named input: y; "
            "expected 'x'",
        ),
        ({"inputs": {"y": 1}}, "Missing named input: x in 'inputs' object; it has 'y', expected 'x'"),
        ({"inputs": {}}, "Missing named input: x in 'inputs' object; it has none, expected 'x'"),
        (
            {"instances": [{"x": 1}, 2]},
            "Expecting object but got list at item 1 of 'instances': instances[1] is a JSON number; expected an object "
            "with 'x'",
        ),
        (
            {"instances": [2, {"x": 1}]},
            "Expecting value/list but got object at item 1 of 'instances': instances[0] has no input names, "
            "instances[1] has; expected them in every row or in none",
        ),
        (
            {"instances": [{"x": 1}, {"z": 1}]},
            "Failed to process element: 1 key: z of 'instances' list. JSON object: does not have named input: z",
        ),
        (
            {"instances": [{"x": 1}, {}]},
            "Failed to process element: 1 of 'instances' list: it has no names; keys must be equal to: x",
        ),
        ({"instances": [None]}, "instances[0] is null; expected a number (not of expected type: float)"),
        ({"instances": [{"x": "a"}]}, "instances[...]['x'][0] is the string 'a'; expected a number"),
        ({"inputs": {"x": ["a"]}}, "inputs['x'][0] is the string 'a'; expected a number"),
        ({"inputs": None}, "inputs is null; expected a number"),
    ],
)
def test_a_request_that_is_wrong_is_told_what_where_and_what_was_expected(fields: dict[str, Any], message: str) -> None:
    assert refusal(fields).startswith(message)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"instances": [1]}, "instances is a plain list, but expecting list of objects"),
        ({"inputs": [1]}, "inputs is a plain value/list, but expecting an object"),
    ],
)
def test_several_inputs_need_their_names(fields: dict[str, Any], words: str) -> None:
    assert refusal(fields, TWO) == f"{words}, for the signature takes 2 inputs: 'a', 'b'"


def test_rows_with_different_names_are_told_apart() -> None:
    assert refusal({"instances": [{"a": 1, "b": "x"}, {"a": 1}]}, TWO) == (
        "Failed to process element: 1 of 'instances' list: it has 'a'; keys must be equal to: a,b"
    )


@pytest.mark.parametrize("depth", [65, 100, 1000])
@pytest.mark.parametrize(("of", "leaf"), [(ONE, "1"), (TEXT, '"x"')])
def test_lists_deeper_than_any_tensor_are_refused(of: Signature, leaf: str, depth: int) -> None:
    data = '{"instances": ' + "[" * depth + leaf + "]" * depth + "}"
    with pytest.raises(InvalidRequest):
        decode_predict(parse_body(data.encode()), of)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["x", "a", "b", "b64", "instances"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(JSON, st.sampled_from(["instances", "inputs", "examples"]), st.sampled_from([ONE, TWO, TEXT]))
def test_whatever_json_comes_it_is_decoded_or_refused(value: Any, key: str, of: Signature) -> None:
    decode = decode_examples if key == "examples" else decode_predict
    # Any other error is a failure.
    with suppress(InvalidRequest):
        assert decode(body({key: value}), of).keys() <= of.inputs.keys()


# :classify and :regress


def test_examples_are_rows_of_named_inputs_where_the_model_takes_tensors() -> None:
    of = signature({"age": any_shape("DT_INT64"), "name": any_shape("DT_STRING")})
    inputs = decode_examples(body({"examples": [{"age": 1, "name": "x"}], "context": {"age": 5}}), of)
    assert {name: array.tolist() for name, array in inputs.items()} == {"age": [1], "name": [b"x"]}


def test_a_context_is_part_of_every_example() -> None:
    of = signature({"age": any_shape("DT_INT64"), "name": any_shape("DT_STRING")})
    inputs = decode_examples(body({"examples": [{"age": 1}, {"age": 2}], "context": {"name": "x"}}), of)
    assert {name: array.tolist() for name, array in inputs.items()} == {"age": [1, 2], "name": [b"x", b"x"]}


def test_a_model_that_takes_serialized_examples_gets_them() -> None:
    inputs = decode_examples(body({"examples": [{"a": 1}, {}], "context": {"c": 1}}), TEXT)
    assert inputs["text"].shape == (2,)
    first, second = inputs["text"]
    assert first != second
    assert second.hex() == "0a0c0a0a0a016312051a030a0101"


def test_classify_takes_what_predict_takes() -> None:
    assert decode_examples(body({"instances": [1.0]}), ONE)["x"].tolist() == [1.0]
    assert decode_examples(body({"inputs": [1.0]}), ONE)["x"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "key 'examples' is expected and was not found; expected"),
        (
            {"examples": [{"x": 1}], "instances": [1]},
            "Not formatted correctly: expecting only one of 'examples' or 'instances' keys to exist; both are there",
        ),
        (
            {"examples": [{"x": 1}], "inputs": [1]},
            "Not formatted correctly: expecting only one of 'examples' or 'inputs'",
        ),
        ({"examples": []}, "'examples' value is an empty array; expected"),
        ({"examples": {"x": 1}}, "Expecting 'examples' value to be a list/array, not a JSON object; expected"),
        ({"examples": [{"x": 1}, 2]}, "examples[1]: Example must be JSON object but got JSON number; expected"),
        ({"examples": None}, "Expecting 'examples' value to be a list/array, not a JSON null; expected"),
        ({"examples": [{"x": 1}], "context": [1]}, "context: Example must be JSON object but got JSON list; expected"),
        ({"examples": [{"x": 1}], "context": None}, "context: Example must be JSON object but got JSON null; expected"),
        ({"examples": [{"x": True}]}, "examples[...]['x'][0] is true; expected a number"),
        (
            {"examples": [{"z": 1}]},
            "Failed to process element: 0 key: z of 'examples' list. JSON object: does not have",
        ),
    ],
)
def test_examples_that_are_wrong_are_told_what_was_expected(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        decode_examples(body(fields), ONE)
    assert str(raised.value).startswith(words)


def test_a_bad_feature_is_named_with_its_example() -> None:
    with pytest.raises(InvalidRequest, match=r"^examples\[1\]\['a'\]: Feature: a has element with unexpected"):
        decode_examples(body({"examples": [{"a": 1}, {"a": None}]}), TEXT)


# Answers


def rows(outputs: dict[str, Array]) -> Any:
    answer = orjson.loads(encode_predictions(outputs, is_row_format=True))
    assert list(answer) == ["predictions"]
    return answer["predictions"]


def columns(outputs: dict[str, Array]) -> Any:
    answer = orjson.loads(encode_predictions(outputs, is_row_format=False))
    assert list(answer) == ["outputs"]
    return answer["outputs"]


def test_a_single_output_needs_no_name() -> None:
    outputs = {"y": np.array([[1, 2], [3, 4]])}
    assert rows(outputs) == columns(outputs) == [[1, 2], [3, 4]]


def test_several_outputs_have_their_names() -> None:
    outputs = {"y": np.array([1.5, 2.5], np.float32), "z": np.array([[1], [2]]), "s": strings(b"a", b"b")}
    assert rows(outputs) == [{"y": 1.5, "z": [1], "s": "a"}, {"y": 2.5, "z": [2], "s": "b"}]
    assert columns(outputs) == {"y": [1.5, 2.5], "z": [[1], [2]], "s": ["a", "b"]}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_what_is_no_number_becomes_null(dtype: type[np.generic]) -> None:
    numbers = np.array([np.nan, np.inf, -np.inf, 1], dtype)
    assert rows({"y": numbers}) == [None, None, None, 1.0]
    assert rows({"y": numbers, "z": numbers})[0] == {"y": None, "z": None}
    assert columns({"y": numbers[0]}) is None


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES.values() if dtype.kind != "O"])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_every_output_comes_as_json_of_its_values(dtype: "np.dtype[Any]", data: st.DataObject) -> None:
    elements = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    shapes = numpy_st.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
    array: Array = data.draw(numpy_st.arrays(dtype, shapes, elements=elements))
    for output in (array, array.T):  # what an engine gives need not be contiguous
        assert np.array_equal(np.array(columns({"y": output}), dtype).reshape(output.shape), output)


def test_strings_come_as_text_or_as_base64_by_the_outputs_name() -> None:
    assert rows({"y": strings(b"a", "ü".encode())}) == ["a", "ü"]
    assert rows({"y_bytes": strings(b"a", b"\xff")}) == [{"b64": "YQ=="}, {"b64": "/w=="}]


def test_bytes_that_are_no_text_come_as_base64_whatever_the_name() -> None:
    assert rows({"y": strings(b"a", b"\xff")}) == ["a", {"b64": "/w=="}]


@pytest.mark.parametrize("value", [np.array("a", object), np.array(b"a", object)])
def test_a_string_without_dimensions_is_a_string(value: Array) -> None:
    assert columns({"y": value}) == "a"


def test_strings_of_a_fixed_width_are_strings_too() -> None:
    assert columns({"y": np.array([[b"ab", b"c"]])}) == [["ab", "c"]]


@given(st.lists(st.binary(), max_size=5))
def test_every_bytes_come_back(values: list[bytes]) -> None:
    sent = columns({"x_bytes": strings(*values)})
    assert predict({"inputs": sent}, TEXT)["text"] == values


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"y": np.float32(1).reshape(())}, "Tensor name: y has no shape information, so no rows"),
        (
            {"y": np.zeros(2), "z": np.zeros((3, 1))},
            "Tensor name: z has inconsistent batch size: 3 expecting: 2",
        ),
        (
            {"y": np.zeros(2), "z": np.zeros(())},
            "Tensor name: z has no shape information, so no rows",
        ),
    ],
)
def test_outputs_that_are_no_rows_are_to_be_asked_for_as_columns(outputs: dict[str, Array], message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        encode_predictions(outputs, is_row_format=True)
    assert str(raised.value) == f'{message}; ask in the column format {{"inputs": ...}}'
    assert columns(outputs) is not None


def test_no_rows_are_an_empty_list() -> None:
    assert rows({"y": np.zeros((0, 3))}) == []
    assert rows({"y": np.zeros((0, 3)), "z": np.zeros(0)}) == []


def test_an_output_of_a_type_without_json_is_named() -> None:
    with pytest.raises(InvalidRequest, match="tensor type: complex64: the output 'y' has no JSON form"):
        encode_predictions({"y": np.zeros(1, np.complex64)}, is_row_format=True)


def test_bfloat16_comes_as_numbers() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert rows({"y": np.array([1.5, math.inf], ml_dtypes.bfloat16)}) == [1.5, None]


def test_results_hold_what_they_are_given() -> None:
    answer = orjson.loads(encode_results([[["a", np.float32(0.5)], ["b", np.float32("nan")]]]))
    assert answer == {"results": [[["a", 0.5], ["b", None]]]}
    assert orjson.loads(encode_results(np.array([1.5, np.nan]))) == {"results": [1.5, None]}


@pytest.mark.parametrize(
    ("declared", "given", "shape"),
    [
        ((-1, 28, 28), [], (0, 28, 28)),
        ((-1, -1, 3), [[], []], (2, 0, 3)),
        ((-1, -1), [], (0,)),
        ((-1,), [], (0,)),
        (None, [], (0,)),
    ],
)
def test_what_an_empty_list_would_hold_is_told_by_the_signature(
    declared: tuple[int, ...] | None, given: object, shape: tuple[int, ...]
) -> None:
    of = signature({"x": TensorSpec("x:0", "DT_FLOAT", declared)})
    for inputs in (given, {"x": given}):
        assert decode_predict(body({"inputs": inputs}), of)["x"].shape == shape
