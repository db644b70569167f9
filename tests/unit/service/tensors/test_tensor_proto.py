import contextlib
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.tensors.dtypes import DTYPES
from service.tensors.tensor_proto import read_tensor, write_tensor
from tests.unit.service.protobufs import message, tensor, varint, whole

FLOAT, DOUBLE, INT32, UINT8, STRING, INT64, BOOL, HALF, UINT64 = 1, 2, 3, 4, 7, 9, 10, 19, 23


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (tensor(FLOAT, (2,), message(4, struct.pack("<2f", 1.5, -2))), np.array([1.5, -2], np.float32)),
        (tensor(FLOAT, (2,), message(5, struct.pack("<2f", 1.5, -2))), np.array([1.5, -2], np.float32)),
        (tensor(FLOAT, (1,), b"\x2d" + struct.pack("<f", 3)), np.array([3], np.float32)),
        (tensor(DOUBLE, (1,), message(6, struct.pack("<d", 0.1))), np.array([0.1])),
        (tensor(INT32, (2,), message(7, varint(5), varint(2**64 - 1))), np.array([5, -1], np.int32)),
        (tensor(INT64, (2,), whole(10, 7), whole(10, -7)), np.array([7, -7], np.int64)),
        (tensor(BOOL, (2,), message(11, b"\1\0")), np.array([True, False])),
        (tensor(HALF, (1,), message(13, varint(0x3C00))), np.array([1], np.float16)),
        (tensor(UINT64, (1,), whole(17, 2**64 - 1)), np.array([2**64 - 1], np.uint64)),
        (tensor(FLOAT, (2, 2), message(5, struct.pack("<f", 4))), np.full((2, 2), 4, np.float32)),
        (tensor(FLOAT, (), message(5, struct.pack("<f", 4))), np.array(4, np.float32)),
        (tensor(FLOAT, (0, 3)), np.zeros((0, 3), np.float32)),
        (tensor(STRING, (2,), message(8, b"shirt"), message(8, b"\xff")), np.array([b"shirt", b"\xff"], object)),
    ],
)
def test_values_are_read(content: bytes, expected: Any) -> None:
    _, array = read_tensor(content)
    assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
    assert array.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tensor(FLOAT, (2,)), r"shape \(2,\) holds 0 values"),
        (tensor(FLOAT, (1,), message(5, struct.pack("<2f", 1, 2))), r"shape \(1,\) holds 2 values"),
        (tensor(FLOAT, (2**40,), message(5, struct.pack("<f", 1))), "holds 1 values"),
        (tensor(FLOAT, (-1,)), r"shape \(-1,\) cannot be read"),
        (tensor(99, (1,)), "type unknown"),
        (tensor(UINT8, (1,), whole(7, 300)), "out of its range"),
        (tensor(FLOAT, (1,), message(5, b"\0\0\0")), "no whole numbers"),
        (message(1, b"x"), "bytes where a number belongs"),
        (b"\x0a\x05", "ends in the middle of a field"),
    ],
)
def test_mismatch_is_rejected(content: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_tensor(content)


@given(st.binary(max_size=40))
def test_fuzzed_bytes_are_read_or_rejected(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        read_tensor(content)


@pytest.mark.parametrize("as_content", [False, True])
@pytest.mark.parametrize(
    "values",
    [
        *(np.array([[1.5, -2]], of) for of in (np.float32, np.float64, np.float16)),
        *(np.array([np.iinfo(of).min, 1, np.iinfo(of).max], of) for of in (np.int8, np.int16, np.int32, np.int64)),
        *(np.array([[0], [np.iinfo(of).max]], of) for of in (np.uint8, np.uint16, np.uint32, np.uint64)),
        np.array([True, False]),
        np.array(7, np.int32),
        np.zeros((0, 3), np.float32),
        np.array([b"shirt", b"\xff", b""], object),
        np.arange(6, dtype=np.float32).reshape(2, 3).T,
    ],
    ids=str,
)
def test_written_tensor_is_read_as_it_was(values: Any, as_content: bool) -> None:
    name, array = read_tensor(b"".join(write_tensor(values, as_content=as_content)))
    assert DTYPES[name] == array.dtype == values.dtype
    assert array.shape == values.shape
    assert array.tolist() == values.tolist()


def test_numbers_are_typed_values_unless_content_is_wanted() -> None:
    values = np.array([1.5, 2], np.float32)
    assert b"".join(write_tensor(values)).endswith(message(5, values.tobytes()))
    assert b"".join(write_tensor(values, as_content=True)).endswith(message(4, values.tobytes()))


def test_bfloat16_is_read_as_float32() -> None:
    name, array = read_tensor(tensor(14, (2,), message(4, struct.pack("<2H", 0x3FC0, 0xC000))))
    assert (name, array.dtype, array.tolist()) == ("DT_BFLOAT16", np.float32, [1.5, -2])


def test_type_without_a_name_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="complex64 cannot be sent"):
        write_tensor(np.zeros(1, np.complex64))
