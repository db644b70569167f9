from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.tensors.protobuf import InvalidMessage, fields, pack_varints, repeated, spans, text, varint, varints
from tests.unit.service.protobufs import message, whole


def test_spans_say_where_each_value_is() -> None:
    data = whole(1, 300) + message(2, b"shirt") + b"\x1d1234" + b"\x2112345678"
    numbers_and_places = [(1, 300, -1), (2, 5, 10), (3, 11, 15), (4, 16, 24)]
    assert list(spans(data, 0, len(data))) == numbers_and_places


DAMAGED = {
    "no length": b"\x0a",
    "cut": b"\x0a\x05abc",
    "cut length": b"\x0a\xff",
    "cut float": b"\x0d123",
    "no number": b"\x08",
    "cut number": b"\x08\x80",
    "long number": b"\x08" + b"\x80" * 11,
    "group": b"\x0b",
    "wire type 6": b"\x0e",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_an_invalid_message(name: str) -> None:
    with pytest.raises(InvalidMessage):
        list(fields(memoryview(DAMAGED[name])))


def test_text_that_is_no_utf8_is_an_invalid_message() -> None:
    with pytest.raises(InvalidMessage, match="UTF-8"):
        text(b"\xff", 0, 1)


@given(st.lists(st.integers(-(2**63), 2**63 - 1)), st.lists(st.integers(0, 2**64 - 1)))
def test_integers_round_trips(signed: list[int], unsigned: list[int]) -> None:
    for numbers, dtype in ((signed, np.int64), (unsigned, np.uint64)):
        packed = pack_varints(np.array(numbers, dtype))
        assert packed == b"".join(map(varint, numbers))
        assert varints(packed, 0, len(packed)).view(dtype).tolist() == numbers


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint32])
def test_number_out_of_range_is_an_invalid_message(dtype: Any) -> None:
    data = varint(2**62)
    with pytest.raises(InvalidMessage, match="out of its range"):
        repeated(data, [(0, len(data))], np.dtype(dtype))
    # Any number is true.
    assert repeated(data, [(0, len(data))], np.dtype(np.bool_)).tolist() == [True]


@given(st.binary())
def test_fuzz(data: bytes) -> None:
    with suppress(InvalidMessage):
        list(fields(memoryview(data)))
    with suppress(InvalidMessage):
        varints(data, 0, len(data))
