import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.tensors.tf_example import encode_example
from tests.unit.service.protobufs import message, varint

UNEXPECTED = "Feature: age has element with unexpected JSON type:"
MIXED = "Unexpected element type in feature: age expecting type:"


def example(features: dict[str, bytes]) -> bytes:
    return message(1, *(message(1, message(1, name.encode()), message(2, lists)) for name, lists in features.items()))


def texts(*values: bytes) -> bytes:
    return message(1, *(message(1, value) for value in values))


def floats(*values: float) -> bytes:
    return message(2, message(1, struct.pack(f"<{len(values)}f", *values)))


def whole(*values: int) -> bytes:
    return message(3, message(1, *(varint(value % 2**64) for value in values)))


def test_example_is_encoded_like_protoc() -> None:
    # Example { features { feature { key: "a" value { int64_list { value: 1 } } } } }
    assert encode_example({"a": 1}, "examples[0]").hex() == "0a0c0a0a0a016112051a030a0101"


def test_values_go_to_their_lists() -> None:
    values = {"a": [{"b64": "AP8="}, "x"], "b": [1, -1, True, False], "c": [1.0, 2.5], "d": [], "e": True, "f": "ü"}
    lists = [texts(b"\x00\xff", b"x"), whole(1, -1, 1, 0), floats(1.0, 2.5), b"", whole(1), texts("ü".encode())]
    assert encode_example(values, "examples[0]") == example(dict(zip("abcdef", lists, strict=True)))


@given(
    st.dictionaries(
        st.text(),
        st.lists(st.text(), min_size=1, max_size=200)
        | st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1)
        | st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1),
    )
)
def test_any_example_round_trips(features: dict[str, list[Any]]) -> None:
    encode = {str: lambda *values: texts(*(value.encode() for value in values)), int: whole, float: floats}
    expected = example({name: encode[type(values[0])](*values) for name, values in features.items()})
    assert encode_example(features, "examples[0]") == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, f'{UNEXPECTED} Null; expected numbers, booleans, strings or {{"b64": "..."}}, or a list of them'),
        ([1, None], f"{UNEXPECTED} Null"),
        ([[1], 2], f"{UNEXPECTED} Array"),
        ([1, {"nested": 1}], f"{UNEXPECTED} Object"),
        ({"b64": 1}, f"{UNEXPECTED} Object"),
        ([1, "x"], f"{MIXED} int64, the type of its first value"),
        ([True, 0.5], f"{MIXED} int64, the type of its first value"),
        ([0.5, True], f"{MIXED} float, the type of its first value"),
        ([1.0, 1], f"{MIXED} float, the type of its first value"),
        ([{"b64": "eA=="}, 1], f"{MIXED} bytes, the type of its first value"),
        (2**63, "9223372036854775808 is out of the range of int64 (Only int64_t is supported)"),
        (-(2**63) - 1, "-9223372036854775809 is out of the range of int64 (Only int64_t is supported)"),
        ([1.0, 1e39], "a number is out of the range of float32"),
        ({"b64": "?"}, 'expected a string or {"b64": "..."} with valid base64 (Unable to base64 decode)'),
    ],
)
def test_invalid_feature_is_named(value: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        encode_example({"fine": 1, "age": value}, "examples[3]")
    assert str(raised.value).startswith(f"examples[3]['age']: {message}")
