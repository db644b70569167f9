from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.tensors.protobuf import (
    NUMBER,
    InvalidMessage,
    fields,
    pack_varints,
    repeated,
    spans,
    text,
    varint,
    varints,
)
from tests.unit.service.protobufs import message, whole


def test_spans_say_where_each_value_is() -> None:
    data = whole(1, 300) + message(2, b"shirt") + b"\x1d1234" + b"\x2112345678"
    assert [(key, start if end == NUMBER else data[start:end]) for key, start, end in spans(data, 0, len(data))] == [
        *((1, 300), (2, b"shirt")),
        *((3, b"1234"), (4, b"12345678")),
    ]


@pytest.mark.parametrize(
    "data",
    [b"\x0a", b"\x0a\x05abc", b"\x0a\xff", b"\x08", b"\x08\x80", b"\x08" + b"\x80" * 11, b"\x0d123", b"\x0b", b"\x0e"],
    ids=[
        "no length",
        "cut",
        "cut length",
        "no number",
        "cut number",
        "long number",
        "cut float",
        "group",
        "wire type 6",
    ],
)
def test_damage_is_an_invalid_message(data: bytes) -> None:
    with pytest.raises(InvalidMessage):
        list(fields(memoryview(data)))


def test_text_that_is_no_utf8_is_an_invalid_message() -> None:
    with pytest.raises(InvalidMessage, match="UTF-8"):
        text(b"\xff", 0, 1)


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_int64_round_trips(numbers: list[int]) -> None:
    packed = pack_varints(np.array(numbers, np.int64))
    assert packed == b"".join(map(varint, numbers))
    assert varints(packed, 0, len(packed)).view(np.int64).tolist() == numbers


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_uint64_round_trips(numbers: list[int]) -> None:
    packed = pack_varints(np.array(numbers, np.uint64))
    assert varints(packed, 0, len(packed)).tolist() == numbers


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint32, np.bool_])
def test_number_out_of_range_is_an_invalid_message(dtype: Any) -> None:
    data = varint(2**62)
    with suppress(InvalidMessage):
        # Any number is true.
        assert repeated(data, [(0, len(data))], np.dtype(dtype)).tolist() == [True]
        assert dtype is np.bool_


@given(st.binary())
def test_fuzz(data: bytes) -> None:
    with suppress(InvalidMessage):
        list(fields(memoryview(data)))
    with suppress(InvalidMessage):
        varints(data, 0, len(data))
