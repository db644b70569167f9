import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.tensors.tf_example import encode_example

UNEXPECTED = "Feature: age has element with unexpected JSON type:"
EXPECTED = 'expected numbers, booleans, strings or {"b64": "..."}, or a list of them'


def fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a protocol buffer message, by number."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        assert key & 7 == 2
        length, at = varint(data, at)
        yield key >> 3, data[at : at + length]
        at += length
    assert at == len(data)


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def read_feature(data: bytes) -> list[Any]:
    values: list[Any] = []
    for kind, content in fields(data):
        if kind == 1:
            values += [value for _, value in fields(content)]
            continue
        ((_, packed),) = fields(content)
        if kind == 2:
            values += struct.unpack(f"<{len(packed) // 4}f", packed)
        else:
            at = 0
            while at < len(packed):
                value, at = varint(packed, at)
                values.append(value - 2**64 if value >= 2**63 else value)
    return values


def read_example(data: bytes) -> dict[str, list[Any]]:
    ((number, features),) = fields(data)
    assert number == 1
    read = {}
    for _, entry in fields(features):
        (_, name), (_, feature) = fields(entry)
        read[name.decode()] = read_feature(feature)
    return read


def test_an_example_is_encoded_like_protoc() -> None:
    # Example { features { feature { key: "a" value { int64_list { value: 1 } } } } }
    assert encode_example({"a": 1}, "examples[0]").hex() == "0a0c0a0a0a016112051a030a0101"


def test_values_go_to_their_lists() -> None:
    example = {
        "text": "ü",
        "bytes": [{"b64": "AP8="}, "x"],
        "whole": [1, -1, True, False],
        "flags": [True, 0],
        "flag": True,
        "float": [1.0, 2.5],
        "none": [],
    }
    assert read_example(encode_example(example, "examples[0]")) == {
        "text": ["ü".encode()],
        "bytes": [b"\x00\xff", b"x"],
        "whole": [1, -1, 1, 0],
        "flags": [1, 0],
        "flag": [1],
        "float": [1.0, 2.5],
        "none": [],
    }


def test_an_example_may_be_empty() -> None:
    assert read_example(encode_example({}, "examples[0]")) == {}


@given(
    st.dictionaries(
        st.text(),
        st.lists(st.text(), max_size=200)
        | st.lists(st.integers(-(2**63), 2**63 - 1))
        | st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)),
    )
)
def test_round_trip(example: dict[str, list[Any]]) -> None:
    expected = {
        name: [value.encode() if isinstance(value, str) else value for value in values]
        for name, values in example.items()
    }
    assert read_example(encode_example(example, "examples[0]")) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, f"{UNEXPECTED} Null; {EXPECTED}"),
        ([1, None], f"{UNEXPECTED} Null; {EXPECTED}"),
        ([[1], 2], f"{UNEXPECTED} Array; {EXPECTED}"),
        ([1, {"nested": 1}], f"{UNEXPECTED} Object; {EXPECTED}"),
        ({"nested": 1}, f"{UNEXPECTED} Object; {EXPECTED}"),
        ({"b64": 1}, f"{UNEXPECTED} Object; {EXPECTED}"),
        ([1, "x"], "Unexpected element type in feature: age expecting type: int64, the type of its first value"),
        ([1, 1.0], "Unexpected element type in feature: age expecting type: int64, the type of its first value"),
        ([True, 0.5], "Unexpected element type in feature: age expecting type: int64, the type of its first value"),
        ([0.5, True], "Unexpected element type in feature: age expecting type: float, the type of its first value"),
        (
            [{"b64": "eA=="}, 1],
            "Unexpected element type in feature: age expecting type: bytes, the type of its first value",
        ),
        ([1.0, 1], "Unexpected element type in feature: age expecting type: float, the type of its first value"),
        (["x", 1], "Unexpected element type in feature: age expecting type: bytes, the type of its first value"),
        (2**63, "9223372036854775808 is out of the range of int64 (Only int64_t is supported)"),
        (-(2**63) - 1, "-9223372036854775809 is out of the range of int64 (Only int64_t is supported)"),
        ([1.0, 1e39], "a number is out of the range of float32"),
        (
            {"b64": "?"},
            'expected a string or {"b64": "..."} with valid base64 (Unable to base64 decode)',
        ),
    ],
)
def test_an_invalid_feature_is_named(value: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        encode_example({"fine": 1, "age": value}, "examples[3]")
    assert str(raised.value) == f"examples[3]['age']: {message}"
