import struct
from typing import Any

import numpy as np
import pytest

from service.api.v2.binary import decode_raw, decode_tensor, encode_tensor
from service.errors import InvalidRequest
from service.tensors.dtypes import Array
from service.tensors.signature import TensorSpec
from tests.unit.service.fakes import any_shape, tensor

STRINGS = b"\x02\0\0\0ab\0\0\0\0\x01\0\0\0\xff"


def decoded(dtype: str, shape: tuple[int, ...], data: bytes) -> Array:
    return decode_tensor("x", any_shape(dtype), shape, memoryview(data))


def raw(spec: TensorSpec, data: bytes) -> Array:
    return decode_raw("x", spec, memoryview(data))


@pytest.mark.parametrize(
    ("dtype", "shape", "data", "expected"),
    [
        ("DT_INT32", (2, 2), struct.pack("<4i", 1, 2, 3, 4), [[1, 2], [3, 4]]),
        ("DT_BOOL", (2,), b"\1\0", [True, False]),
        ("DT_STRING", (3, 1), STRINGS, [[b"ab"], [b""], [b"\xff"]]),
        ("DT_BFLOAT16", (2,), b"\xc0\x3f\0\xc0", [1.5, -2.0]),
        ("DT_FLOAT", (0, 3), b"", []),
        ("DT_FLOAT", (), struct.pack("<f", 2.5), 2.5),
    ],
)
def test_decode_tensor(dtype: str, shape: tuple[int, ...], data: bytes, expected: Any) -> None:
    array = decoded(dtype, shape, data)
    assert (array.shape, array.tolist()) == (shape, expected)
    assert array.dtype == {"DT_BFLOAT16": np.float32}.get(dtype, array.dtype)


def test_numbers_are_not_copied() -> None:
    assert not decoded("DT_FLOAT", (2, 3), bytes(24)).flags.owndata


@pytest.mark.parametrize(
    ("dtype", "shape", "data", "message"),
    [
        ("DT_FLOAT", (1, 2), bytes(7), "has 7 bytes of binary data; a tensor of FP32 and shape [1, 2] has 8"),
        # Bytes that are 32 modulo 2**64
        ("DT_FLOAT", (2**2, 2**60 + 2), bytes(32), "has 32 bytes of binary data; a tensor of FP32 and shape [4, 115"),
        ("DT_FLOAT", (0, 2**62), b"", "which is too large"),
        ("DT_FLOAT", (2**62, 0, 2**62), b"", "which is too large"),
        ("DT_BOOL", (2,), b"\1\2", "has a byte 2 in its binary data; BOOL is 0 or 1"),
        ("DT_COMPLEX64", (1,), bytes(8), "a tensor of type COMPLEX64 cannot be sent"),
        ("DT_STRING", (2,), b"\1\0\0\0a\2\0", "2 bytes are left of its binary data behind 1 strings"),
        ("DT_STRING", (2,), b"\2\0\0\0a", "string 0 is said to have 2 bytes, and 1 are left"),
        ("DT_STRING", (2,), b"\xff\xff\xff\xff", "string 0 is said to have 4294967295 bytes, and 0 are left"),
        ("DT_STRING", (2,), b"\1\0\0\0a", "has 1 strings in its binary data; the shape [2] has 2"),
        ("DT_STRING", (2,), b"\0\0\0\0" * 3, "has 3 strings in its binary data; the shape [2] has 2"),
    ],
)
def test_decode_tensor_error(dtype: str, shape: tuple[int, ...], data: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^input 'x'") as raised:
        decoded(dtype, shape, data)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("spec", "data", "expected"),
    [
        (tensor("DT_FLOAT", -1, 2), struct.pack("<4f", 1, 2, 3, 4), [[1, 2], [3, 4]]),
        (tensor("DT_FLOAT", 2), struct.pack("<2f", 1, 2), [1, 2]),
        (tensor("DT_FLOAT", -1, -1), struct.pack("<2f", 1, 2), [[1, 2]]),
        (tensor("DT_STRING", -1), b"427", [b"427"]),
        (tensor("DT_STRING", -1, 1), b"427", [[b"427"]]),
    ],
)
def test_decode_raw(spec: TensorSpec, data: bytes, expected: Any) -> None:
    assert raw(spec, data).tolist() == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (tensor("DT_STRING", -1, 2), "is one string where [-1, 2] are expected"),
        (tensor("DT_FLOAT", -1, -1, -1), "of which several sizes are free"),
        (tensor("DT_FLOAT", 2, -1, -1), "of which several sizes are free"),
        (any_shape("DT_FLOAT"), "is of any shape: its own cannot be told from its length"),
        (tensor("DT_FLOAT", -1, 5), "has 8 bytes of binary data; a tensor of FP32 and shape [0, 5]"),
    ],
)
def test_decode_raw_error(spec: TensorSpec, message: str) -> None:
    with pytest.raises(InvalidRequest, match="input 'x'") as raised:
        raw(spec, bytes(8))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("array", "data"),
    [
        (np.asfortranarray(np.array([[1, 2], [3, 4]], np.int32)), struct.pack("<4i", 1, 2, 3, 4)),
        (np.array([True, False]), b"\1\0"),
        (np.array([b"ab", b"", b"\xff"], object), STRINGS),
        (np.array(["ü"], object), b"\2\0\0\0\xc3\xbc"),
        (np.empty((0, 3), np.float32), b""),
    ],
)
def test_encode_tensor(array: Array, data: bytes) -> None:
    assert encode_tensor(array) == data
