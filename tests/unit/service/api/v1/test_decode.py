"""Bodies of v1 as tensors. Most messages hold words that TensorFlow Serving's own tests look for, as its clients may
(json_tensor_test.cc, http_rest_api_handler_test.cc, tensorflow_model_server_test.py)."""

import base64
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BytesIO
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import FileStorage
from werkzeug.test import encode_multipart

from service.api.v1.decode import (
    MAX_FORM_PARTS,
    decode_examples,
    decode_numbers,
    decode_predict,
    parse_body,
    pictures_of,
)
from service.errors import InvalidRequest, PayloadTooLarge
from service.http import Request
from service.tensors.dtypes import Array
from service.tensors.signature import Signature, TensorSpec
from tests.unit.service.fakes import any_shape, request, signature, tensor
from tests.unit.service.mutations import mutated

FLOAT = signature({"x": any_shape("DT_FLOAT")})
INT = signature({"n": any_shape("DT_INT32")})
TEXT = signature({"t": any_shape("DT_STRING")})
PAIR = signature({"n": any_shape("DT_INT64"), "t": any_shape("DT_STRING")})
BODY_EXPECTED = 'expected {"instances": [...]} or {"inputs": ...}'


def decoded(body: object, of: Signature = FLOAT, decode: Callable[..., Any] = decode_predict) -> dict[str, Any]:
    """`body`: bytes as they are, anything else as JSON."""
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    return {name: array.tolist() for name, array in decode(parse_body(data), of).items()}


def error(body: object, of: Signature = FLOAT, decode: Callable[..., Any] = decode_predict) -> str:
    with pytest.raises(InvalidRequest) as raised:
        decoded(body, of, decode)
    return str(raised.value)


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", f"JSON Parse error: The document is empty; {BODY_EXPECTED}"),
        (b'{"instances":\n [1,]}', "at line 2 column"),
        (b'{"instances": [1e400]}', "at line 1 column 16"),
        (b'{"instances": [NaN]}', "JSON Parse error: Invalid value: JSON has no NaN and no Infinity, at line 1 column"),
        (b'{"instances": [1.0, -Infinity]}', "JSON has no NaN and no Infinity, at line 1 column"),
        (b'{"a": "\xff"}', "at line 1 column"),
        (b'{"instances": [1]}]', "at line 1 column"),
        (b'{"signature_name": ' + b"[" * 500_000 + b"]" * 500_000 + b"}", "JSON Parse error: Invalid value: "),
        ("{}".encode("utf-16"), "JSON Parse error: Invalid value: it is in UTF-16 or UTF-32"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "the body is a picture; say so with Content-Type: image/png"),
        *(
            (data, f"Is not object: the body is a JSON {kind}; {BODY_EXPECTED}")
            for data, kind in [(b"[1]", "list"), (b"3", "number"), (b"null", "null"), (b'""', "string")]
        ),
        (b'{"signature_name": null}', "'signature_name' key must be a string value"),
    ],
    ids=range(15),
)
def test_body_that_is_no_request(data: bytes, message: str) -> None:
    assert message in error(data)


def test_signature_name() -> None:
    for fields in (b"{}", b'{"signature_name": ""}'):
        assert parse_body(fields).signature_name == "serving_default"
    assert parse_body(b'{"signature_name": "other"}').signature_name == "other"


@pytest.mark.parametrize(
    ("body", "of", "inputs"),
    [
        # Rows
        ({"instances": [1.0, 2]}, FLOAT, {"x": [1.0, 2.0]}),
        ({"instances": [[[], []]]}, INT, {"n": [[[], []]]}),
        ({"instances": [{"n": [1, 2]}, {"n": [3, 4]}]}, INT, {"n": [[1, 2], [3, 4]]}),
        ({"instances": [{"n": [1], "t": "a"}, {"t": "b", "n": [2]}]}, PAIR, {"n": [[1], [2]], "t": [b"a", b"b"]}),
        # No float32
        (b'{"instances": [1435774380, 1.43577438e9, 2.3e-308]}', FLOAT, {"x": [1435774336.0, 1435774336.0, 0]}),
        # Columns
        ({"inputs": 7}, INT, {"n": 7}),
        ({"inputs": {"n": [[1, 2]], "t": ["a", "b", "c"]}}, PAIR, {"n": [[1, 2]], "t": [b"a", b"b", b"c"]}),
        ({"inputs": {"n": [1], "unknown": "x"}}, INT, {"n": [1]}),
        # Bytes wherever text may be
        ({"instances": [b64(b"\xff"), "foo"]}, TEXT, {"t": [b"\xff", b"foo"]}),
        ({"instances": [{"t": [[b64(b"\xff")], ["foo"]]}]}, TEXT, {"t": [[[b"\xff"], [b"foo"]]]}),
        ({"inputs": b64(b"\xff")}, TEXT, {"t": b"\xff"}),
        ({"inputs": {"t": b64(b"\xff")}}, TEXT, {"t": b"\xff"}),
        # What else may stand in the document
        (b'\xef\xbb\xbf\r\n\t {"instances": [1.0], "comment": {"deep": [[[]]]}}\n ', FLOAT, {"x": [1.0]}),
    ],
)
def test_predict(body: object, of: Signature, inputs: dict[str, Any]) -> None:
    assert decoded(body, of) == inputs


@pytest.mark.parametrize(
    ("spec", "given", "expected"),
    [
        (tensor("DT_FLOAT", -1, 28, 28), [], (0, 28, 28)),
        (tensor("DT_FLOAT", -1, -1, 3), [[], []], (2, 0, 3)),
        (tensor("DT_FLOAT", -1, -1), [], (0,)),
        (any_shape("DT_FLOAT"), [[], []], (2, 0)),
    ],
)
def test_signature_completes_the_shape_of_an_empty_list(spec: TensorSpec, given: object, expected: object) -> None:
    assert decode_predict(parse_body(orjson.dumps({"inputs": given})), signature({"x": spec}))["x"].shape == expected


def test_decode_numbers() -> None:
    data = b'{"instances": [[1.0, 2.0]]}'
    inputs = decode_numbers(data, signature({"x": tensor("DT_FLOAT", -1, 2)}))
    assert inputs is not None
    assert inputs["x"].tolist() == [[1.0, 2.0]]
    assert decode_numbers(data, FLOAT) is None
    assert decode_numbers(data, signature(dict.fromkeys("xy", tensor("DT_FLOAT", -1, 2)))) is None


PLAIN = "for the signature takes 2 inputs: 'n', 't'"
ELEMENT, KEYS = "Failed to process element:", "keys must be equal to"
UNKNOWN = "JSON object: does not have named input"
A_ROW = {"n": 1, "t": "a"}
NO_ROWS = "Expecting 'instances' to be a list/array with an entry per row, not a JSON"
BOTH = "Not formatted correctly: expecting only one of"


@pytest.mark.parametrize(
    ("of", "body", "message"),
    [
        (FLOAT, {}, f"Missing 'inputs' or 'instances' key; {BODY_EXPECTED}"),
        (FLOAT, {"instances": [1], "inputs": [1]}, f"{BOTH} 'inputs' or 'instances' keys to exist; both are there"),
        (FLOAT, {"instances": True}, f"{NO_ROWS} boolean"),
        (FLOAT, {"instances": {"x": [1]}}, f"{NO_ROWS} object"),
        (FLOAT, {"instances": []}, "No values in 'instances' array; expected at least one row"),
        (PAIR, {"instances": [[1]]}, f"instances is a plain list, but expecting list of objects, {PLAIN}"),
        (PAIR, {"instances": [A_ROW, 1]}, "Expecting object but got list at item 1 of 'instances': instances[1] is"),
        (TEXT, {"instances": ["a", {"t": "c"}]}, "Expecting value/list but got object at item 1 of 'instances': "),
        (PAIR, {"instances": [A_ROW, {"n": 1}]}, f"{ELEMENT} 1 of 'instances' list: it has 'n'; {KEYS}: n,t"),
        (FLOAT, {"instances": [{"x": 1}, {}]}, f"{ELEMENT} 1 of 'instances' list: it has no names; {KEYS}: x"),
        (PAIR, {"instances": [A_ROW | {"z": 1}]}, f"{ELEMENT} 0 key: z of 'instances' list. {UNKNOWN}: z; expected "),
        (INT, {"instances": [[1, 2], [3]]}, "instances[1] has 1 value where instances[0] has 2"),
        (FLOAT, {"instances": [{"x": "a"}]}, "instances[...]['x'][0] is the string 'a'; expected a number"),
        (PAIR, {"inputs": [1]}, f"inputs is a plain value/list, but expecting an object, {PLAIN}"),
        (PAIR, {"inputs": b64(b"a")}, f"inputs is a plain value/list, but expecting an object, {PLAIN}"),
        (PAIR, {"inputs": {"n": [1]}}, "Missing named input: t in 'inputs' object; it has 'n', expected 'n', 't'"),
        (FLOAT, {"inputs": {}}, "Missing named input: x in 'inputs' object; it has none, expected 'x'"),
        (FLOAT, {"inputs": {"x": ["a"]}}, "inputs['x'][0] is the string 'a'; expected a number"),
        (FLOAT, {"inputs": None}, "inputs is null; expected a number (not of expected type: float)"),
    ],
)
def test_predict_error(of: Signature, body: object, message: str) -> None:
    assert error(body, of).startswith(message)


# As protoc writes Example { features { feature { key: "a" value { KIND { value: ... } } } } }.
INT64_ONE = "0a0c0a0a0a016112051a030a0101"
BYTES_X = "0a0c0a0a0a016112050a030a0178"


def test_serialized_examples_with_their_context() -> None:
    body = {"examples": [{}, {"a": "x"}], "context": {"a": 1}}
    assert [example.hex() for example in decoded(body, TEXT, decode_examples)["t"]] == [INT64_ONE, BYTES_X]
    assert error({"examples": [{"a": None}]}, TEXT, decode_examples).startswith("examples[0]['a']: Feature: a has")


@pytest.mark.parametrize(
    ("body", "of", "inputs"),
    [
        ({"examples": [{"n": 1}, {"t": "y"}], "context": {"n": 2, "t": "x"}}, PAIR, {"n": [1, 2], "t": [b"x", b"y"]}),
        ({"instances": [1.0]}, FLOAT, {"x": [1.0]}),
        ({"inputs": [1.0]}, FLOAT, {"x": [1.0]}),
    ],
)
def test_examples(body: object, of: Signature, inputs: dict[str, Any]) -> None:
    assert decoded(body, of, decode_examples) == inputs


NO_EXAMPLE = "Example must be JSON object but got JSON"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "key 'examples' is expected and was not found; expected"),
        ({"examples": [], "instances": [1]}, f"{BOTH} 'examples' or 'instances' keys to exist; both are there"),
        ({"examples": [], "inputs": [1]}, f"{BOTH} 'examples' or 'inputs' keys to exist; both are there"),
        ({"examples": []}, "'examples' value is an empty array; expected"),
        ({"examples": {}}, "Expecting 'examples' value to be a list/array, not a JSON object; expected"),
        ({"examples": [{"x": 1}, [1]]}, f"examples[1]: {NO_EXAMPLE} list; expected"),
        ({"examples": [{"x": 1}], "context": 1}, f"context: {NO_EXAMPLE} number; expected"),
        ({"examples": [{"x": True}]}, "examples[...]['x'][0] is true; expected a number"),
        ({"examples": [{"z": 1}]}, f"{ELEMENT} 0 key: z of 'examples' list. {UNKNOWN}: z"),
    ],
)
def test_examples_error(body: object, message: str) -> None:
    assert error(body, FLOAT, decode_examples).startswith(message)


any_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["x", "n", "t", "b64"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(any_json, st.sampled_from(["instances", "inputs", "examples"]), st.sampled_from([FLOAT, PAIR, TEXT]))
def test_fuzz_values(value: Any, key: str, of: Signature) -> None:
    decode = decode_examples if key == "examples" else decode_predict
    # Any other error is a failure.
    with suppress(InvalidRequest):
        assert decoded({key: value}, of, decode).keys() == of.inputs.keys()


FLOAT_PAIRS = signature({"x": tensor("DT_FLOAT", -1, 2)})
V1_BODIES = [
    (FLOAT_PAIRS, {"instances": [[1.0, 2.0], [3, 4e5]]}),
    (FLOAT, {"inputs": {"x": [[1.0, 2.0]]}, "signature_name": "serving_default"}),
    (FLOAT, {"examples": [{"x": [0.5, -1e-3]}], "context": {"x": 1}}),
    (TEXT, {"instances": ["one", {"b64": "dHdv"}, "drei ü"]}),
]


@given(st.sampled_from(V1_BODIES), st.data())
def test_fuzz_damaged_bodies(sent: tuple[Signature, object], data: st.DataObject) -> None:
    of, body = sent
    damaged = data.draw(mutated(st.just(orjson.dumps(body))))
    for decode in (decode_predict, decode_examples):
        with suppress(InvalidRequest):
            decode(parse_body(damaged), of)
    if (quick := decode_numbers(damaged, of)) is not None:
        assert quick["x"].tolist() == decode_predict(parse_body(damaged), of)["x"].tolist()


PIXELS = signature({"x": tensor("DT_FLOAT", -1, 8, 8)})


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"instances": [b64(b"a"), b64(b"b")]}, ["instances[0]", "instances[1]"]),
        ({"instances": [{"x": b64(b"a")}, {"x": b64(b"b")}]}, ["instances[0]['x']", "instances[1]['x']"]),
        ({"examples": [{"x": b64(b"a")}, {"x": b64(b"b")}]}, ["examples[0]['x']", "examples[1]['x']"]),
        ({"inputs": {"x": [b64(b"a"), b64(b"b")]}}, ["inputs['x'][0]", "inputs['x'][1]"]),
        ({"inputs": b64(b"a")}, ["inputs"]),
    ],
)
def test_base64_is_pictures_to_a_signature_that_takes_them(body: dict[str, Any], names: list[str]) -> None:
    files: dict[str, bytes] = {}

    def read(pictures: Mapping[str, bytes]) -> Array:
        files.update(pictures)
        return np.zeros((len(pictures), 8, 8))

    decode = decode_examples if "examples" in body else decode_predict
    assert decode(parse_body(orjson.dumps(body)), PIXELS, read)["x"].shape == (len(names), 8, 8)
    assert files == dict(zip(names, [b"a", b"b"], strict=False))


@pytest.mark.parametrize("rows", [[{"b64": "no base64!"}], [b64(b"a"), [[0] * 8] * 8]])
def test_base64_that_is_no_picture(rows: list[Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"^instances\[0\]"):
        decode_predict(parse_body(orjson.dumps({"instances": rows})), PIXELS, lambda _: np.zeros(()))


def form(*files: tuple[str, bytes], **fields: str) -> Request:
    parts = [FileStorage(BytesIO(data), name) for name, data in files]
    boundary, body = encode_multipart({"file": parts, **fields})
    return request(body=body, content_type=f"multipart/form-data; boundary={boundary}")


def test_picture_as_the_body() -> None:
    for content_type in ("image/*", "IMAGE/PNG; charset=binary"):
        assert pictures_of(request(body=b"picture", content_type=content_type)) == {"the body": b"picture"}


def test_files_of_a_form_are_pictures_in_their_order() -> None:
    pictures = pictures_of(form(("a.png", b"1"), ("a.png", b"2"), ("", b""), comment="x" * 600_000))
    assert list(pictures.items()) == [("file 1 (a.png)", b"1"), ("file 2 (a.png)", b"2"), ("file 3 (file)", b"")]


NO_FILE = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\ntext\r\n--b--\r\n'


@pytest.mark.parametrize(
    ("rest", "body", "message"),
    [
        ("; boundary=b", b"", "the form has no file; expected one or several pictures as files"),
        ("; boundary=b", NO_FILE, "the form has no file"),
        ("; boundary=", b"", r"Content-Type multipart/form-data has no boundary; expected `multipart/form-data; bound"),
    ],
)
def test_form_without_a_file_or_a_boundary(rest: str, body: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{message}"):
        pictures_of(request(body=body, content_type=f"Multipart/Form-Data{rest}"))


def test_form_of_too_many_files_is_413() -> None:
    with pytest.raises(PayloadTooLarge, match=r"^the form has too many parts: at most 1000 are taken$"):
        pictures_of(form(*[("a.png", b"x")] * (MAX_FORM_PARTS + 1)))


OPTIONS = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=40)


@given(st.binary(max_size=200), st.sampled_from(["", "multipart/form-data", "multipart/form-data; boundary="]), OPTIONS)
def test_fuzz_content_types(body: bytes, begin: str, options: str) -> None:
    with suppress(InvalidRequest):
        pictures_of(request(body=body, headers={b"content-type": (begin + options).encode("latin-1")}))
