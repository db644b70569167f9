import contextlib
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engines.saved_model.tensor_proto import read_tensor
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
    array = read_tensor(memoryview(content))
    assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
    assert array.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tensor(FLOAT, (2,)), r"shape \(2,\) holds 0 values"),
        (tensor(FLOAT, (1,), message(5, struct.pack("<2f", 1, 2))), r"shape \(1,\) holds 2 values"),
        (tensor(FLOAT, (-1,)), r"shape \(-1,\) cannot be read"),
        (tensor(99, (1,)), "type unknown"),
        (tensor(UINT8, (1,), whole(7, 300)), "out of its range"),
        (tensor(FLOAT, (1,), message(5, b"\0\0\0")), "buffer size must be a multiple"),
        (b"\x0a\x05", "ends in the middle of a field"),
    ],
)
def test_a_mismatch_is_rejected(content: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_tensor(memoryview(content))


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_rejected(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        read_tensor(memoryview(content))
