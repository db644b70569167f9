"""TensorFlow Serving's REST API, rule by rule. Each test is one rule, read from its sources and tests (json_tensor,
http_rest_api_handler, http_rest_api_util, tensorflow_model_server_test); the cases are our own. What only a real
SavedModel shows is in tests/integration/test_saved_models.py; where we differ, docs/api.md says so."""

import math
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson
import pytest

from service.inference.version import State, VersionStatus
from service.lifecycle.policies import ModelPolicy, Policies
from service.tensors.dtypes import DTYPES, Array
from service.tensors.signature import Signature, TensorSpec
from tests.unit.service.fakes import FakeService, any_shape, error, signature

PREDICT = "/v1/models/model:predict"
CLASSIFY = "/v1/models/model:classify"
REGRESS = "/v1/models/model:regress"
INT = signature({"n": any_shape("DT_INT32")})
FLOAT = signature({"x": any_shape("DT_FLOAT")})
TEXT = signature({"t": any_shape("DT_STRING")})
PAIR = signature({"n": any_shape("DT_INT32"), "t": any_shape("DT_STRING")})
WHOLE_TYPES = [dtype for dtype in DTYPES if DTYPES[dtype].kind in "iu"]
FLOAT_TYPES = [dtype for dtype in DTYPES if DTYPES[dtype].kind == "f"]


def asked(service: FakeService, of: Signature, body: object, verb: str = "predict") -> dict[str, Array]:
    """The tensors that reach a model of that signature."""
    engine = service.add(of, lambda _: {"y": np.zeros(1, np.float32)})
    response = service.post(f"/v1/models/model:{verb}", body)
    assert response.status_code == 200, response.text
    return dict(engine.asked[-1][1])


def refused(service: FakeService, of: Signature, body: object, verb: str = "predict") -> str:
    """The sentence of a 400; the model is not reached."""
    engine = service.add(of)
    response = service.post(f"/v1/models/model:{verb}", body)
    assert response.status_code == 400
    assert not engine.asked
    return error(response)


def answered(service: FakeService, outputs: dict[str, Array], body: object | None = None) -> Any:
    """The JSON that a model with these outputs answers."""
    service.add(FLOAT, lambda _: outputs)
    response = service.post(PREDICT, body or {"instances": [1.0]})
    return (response.status_code, response.get_json())


def strings(*values: bytes) -> Array:
    array = np.empty(len(values), object)
    array[:] = values
    return array


# Requests: the document


def test_an_empty_document_is_a_parse_error(service: FakeService) -> None:
    assert refused(service, FLOAT, b"").startswith("JSON Parse error: The document is empty")


@pytest.mark.parametrize("body", [b"rows = [1]", b"{'instances': [1]}", b'{"instances": [1,]}', b'{"instances": [1'])
def test_what_is_no_json_is_a_parse_error_with_an_invalid_value(service: FakeService, body: bytes) -> None:
    assert refused(service, FLOAT, body).startswith("JSON Parse error: Invalid value")


@pytest.mark.parametrize("body", [[1.0], 1, "instances", None])
def test_the_document_must_be_an_object(service: FakeService, body: object) -> None:
    assert "Is not object" in refused(service, FLOAT, orjson.dumps(body))


@pytest.mark.parametrize("rest", [b"x", b"{}", b' {"instances": [2.0]}', b"\x00", b"]"])
def test_ours_anything_past_the_document_is_an_error(service: FakeService, rest: bytes) -> None:
    assert "JSON Parse error" in refused(service, FLOAT, b'{"instances": [1.0]}' + rest)


@pytest.mark.parametrize("space", [b" ", b"\n", b"\r\n\t "])
def test_white_space_around_the_document_is_none(service: FakeService, space: bytes) -> None:
    assert asked(service, FLOAT, space + b'{"instances": [1.0]}' + space)["x"].tolist() == [1.0]


def test_keys_that_nobody_knows_are_passed_over(service: FakeService) -> None:
    assert asked(service, FLOAT, {"instances": [1.0], "comment": {"deep": [[[]]]}})["x"].tolist() == [1.0]


def test_ours_a_document_deeper_than_any_parser_goes_is_an_error_and_not_the_end(service: FakeService) -> None:
    deep = b"[" * 500_000 + b"]" * 500_000
    assert "JSON Parse error" in refused(service, INT, b'{"instances": [1], "nested": ' + deep + b"}")
    assert "JSON Parse error" in refused(service, INT, b'{"signature_name": ' + deep + b"}")


@pytest.mark.parametrize("name", [100, ["serving_default"], {}, None, True])
def test_a_signature_name_is_a_string(service: FakeService, name: object) -> None:
    message = refused(service, FLOAT, {"signature_name": name, "instances": [1.0]})
    assert "'signature_name' key must be a string value" in message


@pytest.mark.parametrize("fields", [{}, {"signature_name": ""}, {"signature_name": "serving_default"}])
@pytest.mark.parametrize("key", ["instances", "inputs"])
def test_without_a_signature_name_the_default_answers(service: FakeService, fields: dict[str, Any], key: str) -> None:
    assert asked(service, FLOAT, {**fields, key: [1.0]})["x"].tolist() == [1.0]


def test_an_unknown_signature_is_not_found_in_the_signature_def(service: FakeService) -> None:
    message = refused(service, FLOAT, {"signature_name": "train", "instances": [1.0]})
    assert message.startswith("Serving signature ")
    assert '"train" not found' in message


# Requests: rows or columns


def test_rows_or_columns_must_be_there(service: FakeService) -> None:
    assert "Missing 'inputs' or 'instances' key" in refused(service, FLOAT, {})


def test_rows_and_columns_exclude_each_other(service: FakeService) -> None:
    message = refused(service, FLOAT, {"instances": [1.0], "inputs": [1.0]})
    assert "Not formatted correctly" in message
    assert "expecting only one of 'inputs' or 'instances' keys to exist" in message


@pytest.mark.parametrize("rows", [1.0, "1", {"x": [1.0]}, None, True])
def test_rows_are_a_list(service: FakeService, rows: object) -> None:
    message = refused(service, FLOAT, {"instances": rows})
    assert "Expecting 'instances' to be a" in message
    assert "list/array" in message


def test_rows_are_at_least_one(service: FakeService) -> None:
    assert "No values in 'instances' array" in refused(service, FLOAT, {"instances": []})


@pytest.mark.parametrize(
    ("rows", "shape"),
    [
        ([1, 2, 3], (3,)),
        ([[1, 2], [3, 4], [5, 6]], (3, 2)),
        ([[[1]]], (1, 1, 1)),
        ([[]], (1, 0)),
        ([[[], []]], (1, 2, 0)),
    ],
)
def test_unnamed_rows_are_the_only_input_with_the_batch_in_front(
    service: FakeService, rows: list[Any], shape: tuple[int, ...]
) -> None:
    array = asked(service, INT, {"instances": rows})["n"]
    assert (array.shape, array.tolist()) == (shape, rows)


def test_a_single_input_may_be_named_in_rows(service: FakeService) -> None:
    assert asked(service, INT, {"instances": [{"n": [1, 2]}, {"n": [3, 4]}]})["n"].tolist() == [[1, 2], [3, 4]]


def test_rows_of_several_inputs_are_named(service: FakeService) -> None:
    rows = [{"n": [[1, 2]], "t": ["a", "b"]}, {"t": ["c", "d"], "n": [[3, 4]]}]
    inputs = asked(service, PAIR, {"instances": rows})
    assert inputs["n"].tolist() == [[[1, 2]], [[3, 4]]]
    assert inputs["t"].tolist() == [[b"a", b"b"], [b"c", b"d"]]


def test_several_inputs_cannot_be_a_plain_list(service: FakeService) -> None:
    message = refused(service, PAIR, {"instances": [[1], [2]]})
    assert "instances is a plain list, but expecting list of objects" in message


def test_named_rows_are_named_throughout(service: FakeService) -> None:
    rows = [{"n": 1, "t": "a"}, [1, "a"]]
    assert "Expecting object but got list at item 1" in refused(service, PAIR, {"instances": rows})


@pytest.mark.parametrize("of", [INT, TEXT])
def test_unnamed_rows_are_unnamed_throughout(service: FakeService, of: Signature) -> None:
    (name,) = of.inputs
    message = refused(service, of, {"instances": [["a"], ["b"], {name: ["c"]}]})
    assert "Expecting value/list but got object at item 2" in message


@pytest.mark.parametrize("row", [{"n": 1}, {"t": "a"}, {}])
def test_every_row_names_every_input(service: FakeService, row: dict[str, Any]) -> None:
    message = refused(service, PAIR, {"instances": [{"n": 1, "t": "a"}, row]})
    assert "Failed to process element: 1 of 'instances' list" in message
    assert "keys must be equal to: n,t" in message


def test_no_row_names_another_input(service: FakeService) -> None:
    message = refused(service, PAIR, {"instances": [{"n": 1, "t": "a", "z": 1}]})
    assert "Failed to process element: 0 key: z of 'instances' list" in message
    assert "does not have named input: z" in message


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[1, 2], [3, 4], [5, 6, 7]], "Expecting tensor size: 2 but got: 3"),
        ([[1, 2], [3]], "Expecting tensor size: 2 but got: 1"),
        ([1, [2, 3]], "Expecting tensor size: 1 but got: 2"),
        ([[[1, 2], [3, 4]], [[5, 6]]], "Expecting tensor size: 4 but got: 2"),
    ],
)
def test_every_row_holds_as_many_values(service: FakeService, rows: list[Any], words: str) -> None:
    assert words in refused(service, INT, {"instances": rows})


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[1, 2], [3, 4], [[5, 6]]], "Expecting shape [2] but got: [1, 2]"),
        ([1, [1]], "Expecting shape [] but got: [1]"),
        ([[1], 1], "Expecting shape [1] but got: []"),
        ([[[1, 2]], [[3], [4]]], "Expecting shape [1, 2] but got: [2, 1]"),
    ],
)
def test_every_row_has_the_shape_of_the_first(service: FakeService, rows: list[Any], words: str) -> None:
    assert words in refused(service, INT, {"instances": rows})


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ([[1, 2]], [[[3, 4]]], "Expecting shape [1, 2] but got: [1, 1, 2]"),
        ([[1, 2], [3, 4]], [[5, 6]], "Expecting tensor size: 4 but got: 2"),
    ],
)
def test_a_named_tensor_has_one_shape_in_every_row(
    service: FakeService, first: list[Any], second: list[Any], words: str
) -> None:
    rows = [{"n": first, "t": "a"}, {"n": second, "t": "b"}]
    assert words in refused(service, PAIR, {"instances": rows})


@pytest.mark.parametrize("rows", [[[1, [2]]], [[[1], [2, 3]]], [[[1], 2]]])
def test_a_row_is_not_ragged_within_itself(service: FakeService, rows: list[Any]) -> None:
    assert "rows must be of one" in refused(service, INT, {"instances": rows})


def test_columns_are_tensors_by_name_of_any_first_size(service: FakeService) -> None:
    inputs = asked(service, PAIR, {"inputs": {"n": [[[1, 2], [3, 4]]], "t": ["a", "b", "c"]}})
    assert inputs["n"].tolist() == [[[1, 2], [3, 4]]]
    assert inputs["t"].tolist() == [b"a", b"b", b"c"]


@pytest.mark.parametrize("columns", [[[1, 2]], {"n": [[1, 2]]}])
def test_a_single_column_needs_no_name(service: FakeService, columns: object) -> None:
    assert asked(service, INT, {"inputs": columns})["n"].tolist() == [[1, 2]]


@pytest.mark.parametrize("columns", [7, {"n": 7}])
def test_a_column_may_be_a_scalar(service: FakeService, columns: object) -> None:
    array = asked(service, INT, {"inputs": columns})["n"]
    assert (array.shape, int(array)) == ((), 7)


@pytest.mark.parametrize(("column", "shape"), [([], (0,)), ([[], []], (2, 0))])
def test_a_column_may_be_empty(service: FakeService, column: list[Any], shape: tuple[int, ...]) -> None:
    assert asked(service, INT, {"inputs": column})["n"].shape == shape


@pytest.mark.parametrize("columns", [[1], 1, {"b64": "YQ=="}])
def test_several_columns_cannot_be_a_plain_value(service: FakeService, columns: object) -> None:
    assert "inputs is a plain value/list, but expecting an object" in refused(service, PAIR, {"inputs": columns})


def test_every_column_must_be_there(service: FakeService) -> None:
    assert "Missing named input: t in 'inputs' object" in refused(service, PAIR, {"inputs": {"n": [1]}})


def test_columns_that_the_signature_does_not_take_are_passed_over(service: FakeService) -> None:
    assert asked(service, INT, {"inputs": {"n": [1], "z": "unread"}}).keys() == {"n"}


# Requests: values


@pytest.mark.parametrize("dtype", ["DT_FLOAT", "DT_DOUBLE", "DT_HALF"])
def test_whole_and_decimal_numbers_mix_in_a_tensor_of_floats(service: FakeService, dtype: str) -> None:
    array = asked(service, signature({"x": any_shape(dtype)}), {"instances": [1, 2.0, 0, 0.5, 1e2, -3]})["x"]
    assert array.dtype == DTYPES[dtype]
    assert array.tolist() == [1.0, 2.0, 0.0, 0.5, 100.0, -3.0]


@pytest.mark.parametrize("number", [b"1435774380", b"1435774380.0", b"1.43577438e9"])
def test_a_number_that_a_float_cannot_hold_exactly_is_rounded(service: FakeService, number: bytes) -> None:
    array = asked(service, FLOAT, b'{"instances": [' + number + b"]}")["x"]
    assert array.tolist() == [1435774336.0]


@pytest.mark.parametrize(("number", "sign"), [("2.3e-308", 1.0), ("-2.3e-308", -1.0)])
def test_a_number_too_small_for_a_float_is_zero(service: FakeService, number: str, sign: float) -> None:
    (value,) = asked(service, FLOAT, f'{{"instances": [{number}]}}'.encode())["x"].tolist()
    assert (value, math.copysign(1.0, value)) == (0.0, sign)


@pytest.mark.parametrize("number", ["1.7976931348623157e308", "-1.7976931348623157e308"])
def test_ours_a_number_too_large_for_a_float_is_out_of_range(service: FakeService, number: str) -> None:
    assert "out of the range of float32" in refused(service, FLOAT, f'{{"instances": [{number}]}}'.encode())


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity"])
def test_ours_a_bare_token_that_is_no_json_is_a_parse_error(service: FakeService, token: str) -> None:
    message = refused(service, FLOAT, f'{{"instances": [1.0, {token}]}}'.encode())
    assert message.startswith("JSON Parse error: Invalid value: JSON has no NaN and no Infinity")


@pytest.mark.parametrize("dtype", WHOLE_TYPES)
def test_whole_numbers_reach_to_both_ends_of_their_type_exactly(service: FakeService, dtype: str) -> None:
    limits = np.iinfo(DTYPES[dtype])
    values = [int(limits.min), int(limits.max), int(limits.max) - 1]
    array = asked(service, signature({"n": any_shape(dtype)}), {"instances": values})["n"]
    assert (array.dtype, array.tolist()) == (DTYPES[dtype], values)


@pytest.mark.parametrize("dtype", WHOLE_TYPES)
@pytest.mark.parametrize("end", ["min", "max"])
def test_whole_numbers_beyond_their_type_are_not_of_expected_type(service: FakeService, dtype: str, end: str) -> None:
    limits = np.iinfo(DTYPES[dtype])
    outside = int(limits.max) + 1 if end == "max" else int(limits.min) - 1
    body = f'{{"instances": [0, {outside}]}}'.encode()
    name = dtype.removeprefix("DT_").lower()
    assert f"not of expected type: {name}" in refused(service, signature({"n": any_shape(dtype)}), body)


@pytest.mark.parametrize("dtype", WHOLE_TYPES)
@pytest.mark.parametrize("value", [1.0, 1.5, True, "1", None])
def test_only_whole_numbers_are_whole_numbers(service: FakeService, dtype: str, value: object) -> None:
    name = dtype.removeprefix("DT_").lower()
    message = refused(service, signature({"n": any_shape(dtype)}), {"instances": [[value]]})
    assert f"not of expected type: {name}" in message


@pytest.mark.parametrize(
    ("dtype", "name", "value"),
    [
        ("DT_FLOAT", "float", "x"),
        ("DT_FLOAT", "float", True),
        ("DT_FLOAT", "float", None),
        ("DT_FLOAT", "float", {"b64": "YQ=="}),
        ("DT_DOUBLE", "double", "1.0"),
        ("DT_HALF", "half", False),
        ("DT_BOOL", "bool", 1),
        ("DT_BOOL", "bool", "true"),
        ("DT_STRING", "string", 1),
        ("DT_STRING", "string", None),
        ("DT_STRING", "string", True),
    ],
)
@pytest.mark.parametrize("key", ["instances", "inputs"])
def test_a_value_of_another_type_is_not_of_expected_type(
    service: FakeService, dtype: str, name: str, value: object, key: str
) -> None:
    message = refused(service, signature({"x": any_shape(dtype)}), {key: [[value]]})
    assert f"not of expected type: {name}" in message


def test_a_row_of_another_type_among_good_ones_is_not_of_expected_type(service: FakeService) -> None:
    message = refused(service, INT, {"instances": [[1, 2], ["a", "b"]]})
    assert message.startswith("instances[1][0] is the string 'a'")
    assert "not of expected type: int32" in message


def test_booleans_are_true_and_false(service: FakeService) -> None:
    array = asked(service, signature({"b": any_shape("DT_BOOL")}), {"instances": [[True], [False]]})["b"]
    assert (array.dtype, array.tolist()) == (np.bool_, [[True], [False]])


def test_strings_are_utf_8(service: FakeService) -> None:
    assert asked(service, TEXT, {"instances": ["Füße", "\x00", ""]})["t"].tolist() == ["Füße".encode(), b"\x00", b""]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"instances": [{"b64": "/w=="}, {"b64": "Zm9v"}]}, [b"\xff", b"foo"]),
        ({"instances": [[{"b64": "/w=="}], ["foo"]]}, [[b"\xff"], [b"foo"]]),
        ({"instances": [{"t": [[{"b64": "/w=="}], ["foo"]]}]}, [[[b"\xff"], [b"foo"]]]),
        ({"inputs": {"b64": "/w=="}}, b"\xff"),
        ({"inputs": {"t": {"b64": "/w=="}}}, b"\xff"),
        ({"inputs": {"t": [{"b64": ""}]}}, [b""]),
    ],
)
def test_an_object_with_b64_alone_is_bytes_wherever_a_string_may_be(
    service: FakeService, body: object, expected: Any
) -> None:
    assert asked(service, TEXT, body)["t"].tolist() == expected


@pytest.mark.parametrize("text", ["/w", " / w = = ", "/w\n=="])
def test_base64_needs_no_padding_and_may_have_white_space(service: FakeService, text: str) -> None:
    assert asked(service, TEXT, {"instances": [{"b64": text}]})["t"].tolist() == [b"\xff"]


@pytest.mark.parametrize("text", ["?", "/w==/w==", "_w==", "ü", "A"])
def test_wrong_base64_cannot_be_decoded(service: FakeService, text: str) -> None:
    assert "Unable to base64 decode" in refused(service, TEXT, {"instances": [{"b64": text}]})


@pytest.mark.parametrize("value", [{"b64": 1}, {"b64": "YQ==", "more": 1}, {"B64": "YQ=="}, {}])
def test_another_object_is_no_base64(service: FakeService, value: object) -> None:
    assert "not formatted correctly for base64 data" in refused(service, TEXT, {"inputs": [value]})


# Answers


def test_one_output_comes_without_its_name(service: FakeService) -> None:
    cube = np.arange(12, dtype=np.int32).reshape(2, 3, 2)
    assert answered(service, {"y": cube}) == (200, {"predictions": cube.tolist()})
    assert answered(service, {"y": cube}, {"inputs": [1.0]}) == (200, {"outputs": cube.tolist()})


def test_several_outputs_are_an_object_per_row_or_an_object_of_columns(service: FakeService) -> None:
    outputs = {"n": np.array([[1], [2]], np.int64), "d": np.array([8.0, 9.0]), "t": strings(b"a", b"b")}
    rows = [{"n": [1], "d": 8.0, "t": "a"}, {"n": [2], "d": 9.0, "t": "b"}]
    assert answered(service, outputs) == (200, {"predictions": rows})
    columns = {"n": [[1], [2]], "d": [8.0, 9.0], "t": ["a", "b"]}
    assert answered(service, outputs, {"inputs": [1.0]}) == (200, {"outputs": columns})


def test_an_output_whose_name_ends_in_bytes_comes_as_base64(service: FakeService) -> None:
    values = strings(b"foo", b"\xff").reshape(2, 1)
    assert answered(service, {"raw_bytes": values}) == (200, {"predictions": [[{"b64": "Zm9v"}], [{"b64": "/w=="}]]})
    rows = [{"raw_bytes": {"b64": "YQ=="}, "bytes_raw": "a"}]
    assert answered(service, {"raw_bytes": strings(b"a"), "bytes_raw": strings(b"a")}) == (200, {"predictions": rows})


def test_a_name_that_ends_in_bytes_says_nothing_of_numbers(service: FakeService) -> None:
    assert answered(service, {"n_bytes": np.array([1], np.uint8)}) == (200, {"predictions": [1]})


def test_ours_bytes_that_are_no_text_come_as_base64_whatever_the_name(service: FakeService) -> None:
    assert answered(service, {"y": strings(b"a", b"\xff")}) == (200, {"predictions": ["a", {"b64": "/w=="}]})


@pytest.mark.parametrize("dtype", WHOLE_TYPES)
def test_whole_numbers_come_back_exactly(service: FakeService, dtype: str) -> None:
    limits = np.iinfo(DTYPES[dtype])
    values = [int(limits.min), int(limits.max)]
    assert answered(service, {"y": np.array(values, DTYPES[dtype])}) == (200, {"predictions": values})


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_floats_come_with_the_digits_of_their_type_and_a_point(service: FakeService, dtype: str) -> None:
    service.add(FLOAT, lambda _: {"y": np.array([0.2, 3, -0.5], DTYPES[dtype])})
    response = service.post(PREDICT, {"instances": [1.0]})
    shown = "0.19995117" if dtype == "DT_HALF" else "0.2"
    assert response.text == f'{{"predictions":[{shown},3.0,-0.5]}}'


@pytest.mark.parametrize("value", [9e6, 999999.0, 0.0003, 3e-05, 555557.5, 16777216.0, 1e-45, 3.4028235e38])
def test_a_float_reads_back_as_the_very_same(service: FakeService, value: float) -> None:
    _, body = answered(service, {"y": np.array([value], np.float32)})
    assert np.float32(body["predictions"][0]) == np.float32(value)


def test_booleans_come_as_true_and_false(service: FakeService) -> None:
    assert answered(service, {"y": np.array([True, False])}) == (200, {"predictions": [True, False]})


def test_ours_nan_and_the_infinities_come_as_null(service: FakeService) -> None:
    numbers = np.array([[np.nan, np.inf], [3.0, -np.inf]], np.float32)
    assert answered(service, {"y": numbers}) == (200, {"predictions": [[None, None], [3.0, None]]})


def test_a_scalar_output_is_a_column_and_no_row(service: FakeService) -> None:
    scalar = {"y": np.array(2.5, np.float32)}
    assert answered(service, scalar, {"inputs": [1.0]}) == (200, {"outputs": 2.5})
    status, body = answered(service, scalar)
    assert status == 400
    assert "Tensor name: y has no shape information" in body["error"]


@pytest.mark.parametrize("sizes", [(2, 1), (0, 1)])
def test_outputs_of_different_batch_sizes_are_no_rows(service: FakeService, sizes: tuple[int, int]) -> None:
    outputs: dict[str, Array] = {"a": np.zeros((sizes[0], 3)), "b": np.zeros((sizes[1], 3))}
    status, body = answered(service, outputs)
    assert status == 400
    assert f"Tensor name: b has inconsistent batch size: {sizes[1]} expecting: {sizes[0]}" in body["error"]
    assert answered(service, outputs, {"inputs": [1.0]})[0] == 200


def test_a_batch_of_none_is_an_empty_list(service: FakeService) -> None:
    assert answered(service, {"y": np.zeros((0, 2), np.int32)}) == (200, {"predictions": []})
    several: dict[str, Array] = {"t": np.empty((0, 1, 2), object), "y": np.zeros((0, 3, 4))}
    assert answered(service, several) == (200, {"predictions": []})
    assert answered(service, several, {"inputs": []}) == (200, {"outputs": {"t": [], "y": []}})


def test_an_output_without_json_is_told_with_its_type(service: FakeService) -> None:
    status, body = answered(service, {"y": np.zeros(2, np.complex64)})
    assert status == 400
    assert "tensor type: complex64" in body["error"]


@pytest.mark.parametrize("body", [{"instances": [1.0]}, {"inputs": [1.0]}])
def test_no_output_at_all_is_an_empty_tensor_map(service: FakeService, body: object) -> None:
    status, answer = answered(service, {}, body)
    assert status == 400
    assert "empty tensor map" in answer["error"]


@pytest.mark.parametrize("message", ['Bad key: "key"', "Bad key: 'key'", "a\\b\nü"])
def test_an_error_is_one_object_whatever_stands_in_it(service: FakeService, message: str) -> None:
    response = service.post(PREDICT, orjson.dumps({"signature_name": message, "instances": [1.0]}))
    assert response.mimetype == "application/json"
    assert list(orjson.loads(response.data)) == ["error"]


def test_every_answer_is_of_the_type_json(service: FakeService) -> None:
    service.add(FLOAT)
    for response in (
        service.post(PREDICT, {"instances": [1.0]}),
        service.post(PREDICT, {}),
        service.post("/v1/foo"),
        service.get("/v1/models/model"),
        service.get("/v1/models/model/metadata"),
    ):
        assert response.content_type == "application/json"


# Classify and regress


def examples(service: FakeService, body: object, verb: str = "classify") -> list[bytes]:
    """What a model that takes serialized examples is given."""
    scores = {"scores": np.zeros((1, 1), np.float32)} if verb == "classify" else {"outputs": np.zeros(1, np.float32)}
    engine = service.add(TEXT, lambda _: scores)
    response = service.post(f"/v1/models/model:{verb}", body)
    assert response.status_code == 200, response.text
    values: list[bytes] = engine.asked[-1][1]["t"].tolist()
    return values


VERBS = pytest.mark.parametrize("verb", ["classify", "regress"])

# As protoc writes it: Example { features { feature { key: "a" value { KIND { value: ... } } } } }
INT64_ONE = "0a0c0a0a0a016112051a030a0101"
INT64_ONE_AND_ZERO = "0a0d0a0b0a016112061a040a020100"
FLOAT_ONE = "0a0f0a0d0a0161120812060a040000803f"
BYTES_X = "0a0c0a0a0a016112050a030a0178"
BYTES_FF = "0a0c0a0a0a016112050a030a01ff"
KIND_NOT_SET = "0a070a050a01611200"


@VERBS
@pytest.mark.parametrize(
    ("value", "serialized"),
    [
        (1, INT64_ONE),
        ([1], INT64_ONE),
        (True, INT64_ONE),
        ([1, False], INT64_ONE_AND_ZERO),
        ([True, 0], INT64_ONE_AND_ZERO),
        (1.0, FLOAT_ONE),
        ([1.0], FLOAT_ONE),
        ("x", BYTES_X),
        ([{"b64": "eA=="}], BYTES_X),
        ({"b64": "/w=="}, BYTES_FF),
        ([], KIND_NOT_SET),
    ],
)
def test_a_feature_is_a_value_or_a_list_of_int64_float_or_bytes(
    service: FakeService, verb: str, value: object, serialized: str
) -> None:
    (example,) = examples(service, {"examples": [{"a": value}]}, verb)
    assert example.hex() == serialized


@VERBS
def test_every_example_is_one_string(service: FakeService, verb: str) -> None:
    body = {"examples": [{"a": 1}, {}, {"a": "x"}]}
    assert [example.hex() for example in examples(service, body, verb)] == [INT64_ONE, "0a00", BYTES_X]


@VERBS
def test_a_context_counts_for_every_example_that_does_not_say_otherwise(service: FakeService, verb: str) -> None:
    first, second = examples(service, {"context": {"a": 1}, "examples": [{}, {"a": "x"}]}, verb)
    assert (first.hex(), second.hex()) == (INT64_ONE, BYTES_X)


@VERBS
def test_a_context_is_an_object(service: FakeService, verb: str) -> None:
    for context in ([{"a": 1}], 1, None, "a"):
        assert "Example must be JSON object" in refused(service, TEXT, {"context": context}, verb)


@VERBS
def test_examples_must_be_there(service: FakeService, verb: str) -> None:
    assert "key 'examples' is expected and was not found" in refused(service, TEXT, {"context": {"a": 1}}, verb)


@VERBS
@pytest.mark.parametrize("given", [{"a": 1}, 1, "a", None])
def test_examples_are_a_list(service: FakeService, verb: str, given: object) -> None:
    message = refused(service, TEXT, {"examples": given}, verb)
    assert "Expecting 'examples' value to be" in message
    assert "list/array" in message


@VERBS
def test_examples_are_at_least_one(service: FakeService, verb: str) -> None:
    assert "'examples' value is an empty array" in refused(service, TEXT, {"examples": []}, verb)


@VERBS
@pytest.mark.parametrize("example", [[{"a": 1}], 1, "a", None])
def test_an_example_is_an_object(service: FakeService, verb: str, example: object) -> None:
    assert "Example must be JSON object" in refused(service, TEXT, {"examples": [{"a": 1}, example]}, verb)


@VERBS
@pytest.mark.parametrize(
    ("value", "json_type"),
    [([10, None], "Null"), (None, "Null"), ([10, {"test": 10}], "Object"), ({}, "Object"), ([[10], 20], "Array")],
)
def test_a_feature_has_no_element_of_another_json_type(
    service: FakeService, verb: str, value: object, json_type: str
) -> None:
    message = refused(service, TEXT, {"examples": [{"ages": value}]}, verb)
    assert f"ages has element with unexpected JSON type: {json_type}" in message


@VERBS
@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ([10, 10.0], "int64"),
        ([True, 0.5], "int64"),
        ([10, "x"], "int64"),
        ([0.5, 10], "float"),
        ([0.5, True], "float"),
        (["x", 10], "bytes"),
        ([{"b64": "eA=="}, 0.5], "bytes"),
    ],
)
def test_a_feature_is_of_the_kind_of_its_first_element(
    service: FakeService, verb: str, value: object, kind: str
) -> None:
    message = refused(service, TEXT, {"examples": [{"ages": value}]}, verb)
    assert f"Unexpected element type in feature: ages expecting type: {kind}" in message


@VERBS
@pytest.mark.parametrize("value", [18446744073709551603, 2**63])
def test_a_feature_of_uint64_is_refused(service: FakeService, verb: str, value: int) -> None:
    assert "Only int64_t is supported" in refused(service, TEXT, {"examples": [{"ages": [20, value]}]}, verb)


@VERBS
def test_wrong_base64_in_a_feature_cannot_be_decoded(service: FakeService, verb: str) -> None:
    assert "Unable to base64 decode" in refused(service, TEXT, {"examples": [{"a": {"b64": "?"}}]}, verb)


@VERBS
def test_the_signature_name_of_examples_is_a_string(service: FakeService, verb: str) -> None:
    body = {"signature_name": ["hello"], "examples": [{"a": 1}]}
    assert "'signature_name' key must be a string" in refused(service, TEXT, body, verb)


def classes(service: FakeService, outputs: dict[str, Array]) -> Any:
    service.add(TEXT, lambda _: outputs)
    return service.post(CLASSIFY, {"examples": [{"a": 1}, {"a": 2}]}).get_json()


def test_classification_gives_the_classes_and_scores_of_every_example(service: FakeService) -> None:
    labels = strings(b"car", b"bike", b"car", b"bike").reshape(2, 2)
    scores = np.array([[0.2, 0.7], [0.7, 0.2]], np.float32)
    assert classes(service, {"classes": labels, "scores": scores}) == {
        "results": [[["car", 0.2], ["bike", 0.7]], [["car", 0.7], ["bike", 0.2]]]
    }


def test_scores_without_classes_have_the_label_of_nothing(service: FakeService) -> None:
    assert classes(service, {"scores": np.array([[12], [7]], np.float32)}) == {"results": [[["", 12.0]], [["", 7.0]]]}


def test_classes_without_scores_have_the_score_of_nothing(service: FakeService) -> None:
    labels = strings(b"car", b"bike").reshape(2, 1)
    assert classes(service, {"classes": labels}) == {"results": [[["car", 0.0]], [["bike", 0.0]]]}


@pytest.mark.parametrize(
    "outputs",
    [
        {"scores": np.zeros(2, np.float32)},
        {"scores": np.zeros((2, 1, 1), np.float32)},
        {"classes": strings(b"a", b"b").reshape(2, 1), "scores": np.zeros((2, 3), np.float32)},
        {"probabilities": np.zeros((2, 3), np.float32)},
    ],
)
def test_outputs_of_other_names_or_shapes_are_no_classification(
    service: FakeService, outputs: dict[str, Array]
) -> None:
    assert list(classes(service, outputs)) == ["error"]


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_regression_gives_a_number_for_every_example(service: FakeService, shape: tuple[int, ...]) -> None:
    service.add(TEXT, lambda _: {"outputs": np.array([0.2, 1.0], np.float32).reshape(shape)})
    response = service.post(REGRESS, {"examples": [{"a": 1}, {"a": 2}]})
    assert response.text == '{"results":[0.2,1.0]}'


def test_ours_a_regression_that_is_no_number_is_null(service: FakeService) -> None:
    service.add(TEXT, lambda _: {"outputs": np.array([0.2, np.inf, -np.inf, np.nan], np.float32)})
    response = service.post(REGRESS, {"examples": [{"a": 1}] * 4})
    assert orjson.loads(response.data) == {"results": [0.2, None, None, None]}


@pytest.mark.parametrize(
    ("verb", "outputs", "words"),
    [
        ("classify", {"scores": np.zeros((0, 3), np.float32)}, "empty ClassificationResults"),
        ("regress", {"outputs": np.zeros(0, np.float32)}, "empty RegressionResults"),
    ],
)
def test_no_results_are_an_error(service: FakeService, verb: str, outputs: dict[str, Array], words: str) -> None:
    service.add(TEXT, lambda _: outputs)
    response = service.post(f"/v1/models/model:{verb}", {"examples": [{"a": 1}]})
    assert response.status_code == 400
    assert words in error(response)


# Paths


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/foo"),
        ("POST", "/v1/foo"),
        ("GET", "/v1/models/debug/model"),
        ("GET", "/v1/models/model/version/50:predict"),
        ("POST", "/v1/models/model/version/50:regress"),
        ("POST", "/v1/models/model/versions/HELLO:regress"),
        ("POST", "/v1/models/model/versions/-1:predict"),
        ("POST", "/v1/models/model/versions/1.0:predict"),
        ("POST", "/v1/models/model/label/some_label:regress"),
        ("POST", "/v1/models/model/versions/50/labels/some_label:regress"),
        ("POST", "/v1/models/model/labels/some_label/versions/50:regress"),
        ("POST", "/v1/models/model/versions/some_label:regress"),
        ("POST", "/v1/models/model:explain"),
        ("POST", "/v1/models/model:PREDICT"),
        ("POST", "/v1/models/:predict"),
        ("POST", "/v1/models/model:predict/"),
        ("GET", "/v1/models/model/versions/HELLO"),
        ("GET", "/v1/models/model/versions/HELLO/metadata"),
        ("GET", "/v1/models/model/metadata/more"),
    ],
)
def test_what_is_no_call_is_a_malformed_request(service: FakeService, method: str, path: str) -> None:
    service.add(FLOAT)
    response = service.get(path) if method == "GET" else service.post(path, {"instances": [1.0]})
    assert response.status_code == 400
    assert "Malformed request" in error(response)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v1/models", "GET"),
        ("GET", "/v1/models/model:predict", "POST"),
        ("POST", "/v1/models/model/metadata", "GET"),
        ("POST", "/v1/models/model/versions/1/metadata", "GET"),
        ("POST", "/v1/models/model", "GET"),
    ],
)
def test_a_wrong_method_is_a_malformed_request_that_says_which_is_right(
    service: FakeService, method: str, path: str, allowed: str
) -> None:
    service.add(FLOAT)
    response = service.get(path) if method == "GET" else service.post(path, {"instances": [1.0]})
    assert response.status_code == 405
    assert error(response).startswith(f"Malformed request: {method} {path}: ")
    assert allowed in response.headers["Allow"].split(", ")


@pytest.mark.parametrize("version", [2**64 - 1, 2**63, "9" * 1_000])
@pytest.mark.parametrize("end", [":regress", ":predict", "", "/metadata"])
def test_a_version_beyond_int64_cannot_be_converted(service: FakeService, version: object, end: str) -> None:
    service.add(FLOAT)
    path = f"/v1/models/model/versions/{version}{end}"
    response = service.post(path, {"instances": [1.0]}) if end.startswith(":") else service.get(path)
    assert response.status_code == 400
    assert "Failed to convert version" in error(response)


@pytest.mark.parametrize("version", [2**63 - 1, 99, "0"])
def test_a_version_of_int64_that_is_not_there_is_not_found(service: FakeService, version: object) -> None:
    service.add(FLOAT)
    response = service.post(f"/v1/models/model/versions/{version}:predict", {"instances": [1.0]})
    assert response.status_code == 404
    assert f"Servable not found for request: Specific(model, {version})" in error(response)


@pytest.mark.parametrize("end", [":predict", ":classify", ":regress", "/metadata"])
def test_a_model_that_is_not_there_is_not_found(service: FakeService, end: str) -> None:
    path = f"/v1/models/foo{end}"
    response = service.post(path, {"instances": [1]}) if end.startswith(":") else service.get(path)
    assert response.status_code == 404
    assert "Servable not found for request: Latest(foo)" in error(response)


@pytest.mark.parametrize("end", [":predict", ":classify", ":regress", "", "/metadata"])
def test_a_label_that_is_not_there_is_the_clients_mistake(service: FakeService, end: str) -> None:
    service.add(FLOAT)
    path = f"/v1/models/model/labels/nonesuch{end}"
    response = service.post(path, {"instances": [1]}) if end.startswith(":") else service.get(path)
    assert response.status_code == 400
    assert "Unrecognized servable version label: nonesuch" in error(response)


@pytest.mark.parametrize("version", ["2", "0002", "0" * 5_000 + "2"])
@pytest.mark.parametrize("verb", ["predict", "classify", "regress"])
def test_a_version_in_the_path_answers_itself(service: FakeService, version: str, verb: str) -> None:
    engines = [service.add(TEXT, lambda _: {"scores": np.zeros((1, 1))}, version=number) for number in (1, 2, 3)]
    body = {"instances": ["a"]} if verb == "predict" else {"examples": [{"a": 1}]}
    assert service.post(f"/v1/models/model/versions/{version}:{verb}", body).status_code == 200
    assert [bool(engine.asked) for engine in engines] == [False, True, False]


@pytest.mark.parametrize("label", ["canary", "latest!#$%&'()*+,;=?@[] ü", "2", "versions"])
@pytest.mark.parametrize("verb", ["predict", "classify", "regress"])
def test_a_label_in_the_path_answers_for_its_version(service: FakeService, label: str, verb: str) -> None:
    engines = [service.add(TEXT, lambda _: {"scores": np.zeros((1, 1))}, version=number) for number in (1, 2, 3)]
    service.registry.set_policies(Policies(models={"model": ModelPolicy(labels={label: 2})}))
    path = f"/v1/models/model/labels/{quote(label, safe='')}"
    body = {"instances": ["a"]} if verb == "predict" else {"examples": [{"a": 1}]}
    assert service.post(f"{path}:{verb}", body).status_code == 200
    assert [bool(engine.asked) for engine in engines] == [False, True, False]


def test_status_and_metadata_of_a_label_are_those_of_its_version(service: FakeService) -> None:
    for number in (1, 2, 3):
        service.add(FLOAT, version=number)
    service.registry.set_policies(Policies(models={"model": ModelPolicy(labels={"canary": 2})}))
    (status,) = service.get("/v1/models/model/labels/canary").get_json()["model_version_status"]
    assert (status["version"], status["state"]) == ("2", "AVAILABLE")
    metadata = service.get("/v1/models/model/labels/canary/metadata").get_json()
    assert metadata["model_spec"] == {"name": "model", "signature_name": "", "version": "2"}


def test_without_a_version_the_latest_answers(service: FakeService) -> None:
    engines = [service.add(FLOAT, version=number) for number in (2, 10, 9)]
    service.post(PREDICT, {"instances": [1.0]})
    assert [bool(engine.asked) for engine in engines] == [False, True, False]
    assert service.get("/v1/models/model/metadata").get_json()["model_spec"]["version"] == "10"


def test_reserved_characters_in_a_models_name_are_percent_encoded(service: FakeService) -> None:
    name = "name!#$%&'()*+,;=?@[] ü"
    service.add(FLOAT, model=name)
    path = f"/v1/models/{quote(name, safe='')}"
    assert service.post(f"{path}/versions/1:predict", {"instances": [1.0]}).status_code == 200
    assert service.get(path).status_code == 200
    assert service.get(f"{path}/metadata").get_json()["model_spec"]["name"] == name


@pytest.mark.parametrize("query", ["?", "?x=1", "?instances=1&signature_name=train"])
def test_a_query_changes_nothing(service: FakeService, query: str) -> None:
    service.add(FLOAT)
    assert service.post(PREDICT + query, {"instances": [1.0]}).get_json() == {"predictions": [1.0]}


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/json"])
def test_the_content_type_of_json_does_not_matter(service: FakeService, content_type: str) -> None:
    service.add(FLOAT)
    assert service.post(PREDICT, {"instances": [1.0]}, content_type).get_json() == {"predictions": [1.0]}


# Status and metadata


def test_the_status_tells_every_version_newest_first(service: FakeService) -> None:
    service.add(FLOAT, version=123)
    service.registry.set_status("model", 124, VersionStatus(State.LOADING))
    service.registry.set_status("model", 9, VersionStatus(State.END))
    statuses = service.get("/v1/models/model").get_json()["model_version_status"]
    assert [(status["version"], status["state"]) for status in statuses] == [
        ("124", "LOADING"),
        ("123", "AVAILABLE"),
        ("9", "END"),
    ]
    assert all(status["status"] == {"error_code": "OK", "error_message": ""} for status in statuses)


def test_the_status_of_one_version_is_a_list_of_one(service: FakeService) -> None:
    service.add(FLOAT, version=123)
    service.add(FLOAT, version=124)
    assert service.get("/v1/models/model/versions/123").get_json() == {
        "model_version_status": [
            {"version": "123", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }


@pytest.mark.parametrize("state", list(State))
def test_a_state_has_the_name_of_its_enumeration(service: FakeService, state: State) -> None:
    service.registry.set_status("model", 1, VersionStatus(state))
    (status,) = service.get("/v1/models/model").get_json()["model_version_status"]
    assert status["state"] in ("START", "LOADING", "AVAILABLE", "UNLOADING", "END")


def test_a_version_that_could_not_be_loaded_says_why(service: FakeService) -> None:
    service.registry.set_status("model", 1, VersionStatus(State.END, error="no saved_model.pb"))
    (status,) = service.get("/v1/models/model").get_json()["model_version_status"]
    assert status["status"]["error_code"] != "OK"
    assert status["status"]["error_message"] == "no saved_model.pb"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/models/foo", "Could not find any versions of model foo"),
        ("/v1/models/model/versions/99", "Could not find version 99 of model model"),
        ("/v1/models/foo/versions/99", "Could not find version 99 of model foo"),
    ],
)
def test_the_status_of_what_is_not_there_is_not_found(service: FakeService, path: str, words: str) -> None:
    service.add(FLOAT)
    response = service.get(path)
    assert response.status_code == 404
    assert words in error(response)


def test_metadata_are_written_as_the_golden_files_write_them(service: FakeService) -> None:
    """As protobuf's JSON with every field: int64 as strings, an unknown rank without dimensions, empty maps."""
    signatures = {
        "serving_default": Signature(
            "tensorflow/serving/predict",
            {"x": TensorSpec("x:0", "DT_FLOAT", (-1, 1))},
            {"y": TensorSpec("y:0", "DT_FLOAT", (-1, 1))},
        ),
        "classify": Signature(
            "tensorflow/serving/classify",
            {"inputs": TensorSpec("tf_example:0", "DT_STRING", None)},
            {"scores": TensorSpec("y:0", "DT_FLOAT", ())},
        ),
    }
    engine = service.add(FLOAT, version=123)
    engine.signatures = signatures

    def info(name: str, dtype: str, *sizes: str, unknown_rank: bool = False) -> dict[str, Any]:
        shape = {"dim": [{"size": size, "name": ""} for size in sizes], "unknown_rank": unknown_rank}
        return {"dtype": dtype, "tensor_shape": shape, "name": name}

    expected = {
        "model_spec": {"name": "model", "signature_name": "", "version": "123"},
        "metadata": {
            "signature_def": {
                "signature_def": {
                    "serving_default": {
                        "inputs": {"x": info("x:0", "DT_FLOAT", "-1", "1")},
                        "outputs": {"y": info("y:0", "DT_FLOAT", "-1", "1")},
                        "method_name": "tensorflow/serving/predict",
                        "defaults": {},
                    },
                    "classify": {
                        "inputs": {"inputs": info("tf_example:0", "DT_STRING", unknown_rank=True)},
                        "outputs": {"scores": info("y:0", "DT_FLOAT")},
                        "method_name": "tensorflow/serving/classify",
                        "defaults": {},
                    },
                }
            }
        },
    }
    assert service.get("/v1/models/model/metadata").get_json() == expected
    assert service.get("/v1/models/model/versions/123/metadata").get_json() == expected


def test_ours_the_models_are_listed(service: FakeService) -> None:
    service.add(FLOAT, model="b")
    service.add(FLOAT, model="a")
    assert service.get("/v1/models").get_json() == {"models": ["a", "b"]}


def test_metrics_have_the_path_that_prometheus_is_told(service: FakeService) -> None:
    response = service.get("/monitoring/prometheus/metrics")
    assert response.status_code == 200
    assert response.mimetype == "text/plain"
