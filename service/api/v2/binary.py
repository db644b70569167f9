"""Binary tensors: the bytes behind the JSON of a request or a response (extension binary_tensor_data).

Little-endian (as is every machine that this runs on), row by row, without padding. A BOOL is a byte; BYTES follow their
length in 4 bytes.
"""

import struct
from math import prod
from typing import Any

import numpy as np

from service.errors import InvalidRequest
from service.tensors.dtypes import DATATYPES, DTYPES, Array, shape_text
from service.tensors.signature import TensorSpec

# NumPy has no bfloat16: values are float32, which engines take.
BFLOAT16 = "DT_BFLOAT16"

_LENGTH = struct.Struct("<I")
_SAY_SHAPE = "send the request's JSON before it, which says the shape"


def decode_tensor(name: str, spec: TensorSpec, shape: tuple[int, ...], data: memoryview) -> Array:
    """The tensor of all of `data`; a view of it, unless it is of strings.

    Raises:
        InvalidRequest: the bytes do not fit that type and shape.
    """
    count = prod(shape)
    if spec.dtype == "DT_STRING":
        return reshape(name, _strings(name, bytes(data), count, shape), shape)
    dtype = _dtype(name, spec)
    if len(data) != count * dtype.itemsize:
        raise InvalidRequest(
            f"input {name!r} has {len(data)} bytes of binary data; a tensor of {datatype(spec)} and shape "
            f"{shape_text(shape)} has {count * dtype.itemsize}"
        )
    if not len(data):
        return reshape(name, np.empty(0, dtype), shape)
    if dtype.kind == "b" and (bytes_ := np.frombuffer(data, np.uint8)).max() > 1:
        raise InvalidRequest(f"input {name!r} has a byte {bytes_.max()} in its binary data; BOOL is 0 or 1")
    array = np.frombuffer(data, dtype)
    if spec.dtype == BFLOAT16:
        # The upper half of a float32.
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return reshape(name, array, shape)


def decode_raw(name: str, spec: TensorSpec, data: memoryview) -> Array:
    """The tensor that is a whole body; its length gives the one free size. A string comes without its length.

    Raises:
        InvalidRequest: the length does not give the shape.
    """
    if spec.shape is None:
        raise InvalidRequest(
            f"raw input {name!r} is of any shape: its own cannot be told from its length; {_SAY_SHAPE}"
        )
    shape = list(spec.shape)
    if spec.dtype == "DT_STRING":
        if any(size not in (-1, 1) for size in shape):
            raise InvalidRequest(
                f"raw input {name!r} is one string where {shape_text(spec.shape)} are expected; {_SAY_SHAPE}"
            )
        array = np.empty(1, object)
        array[0] = bytes(data)
        return array.reshape([1] * len(shape))
    free = [axis for axis, size in enumerate(shape) if size == -1]
    if len(free) > 1 and free[0] == 0:
        # A batch of one, as Triton takes it.
        shape[free.pop(0)] = 1
    if len(free) > 1:
        raise InvalidRequest(
            f"raw input {name!r} is of the shape {shape_text(spec.shape)}, of which several sizes are free: they "
            f"cannot be told from its length; {_SAY_SHAPE}"
        )
    if free:
        row_bytes = prod(size for size in shape if size != -1) * _dtype(name, spec).itemsize
        shape[free[0]] = len(data) // row_bytes if row_bytes else 0
    return decode_tensor(name, spec, tuple(shape), data)


def encode_tensor(array: Array) -> bytes:
    if array.dtype.kind not in "OS":
        return array.tobytes()
    parts = []
    for value in array.ravel().tolist():
        data = value.encode() if isinstance(value, str) else value
        parts += [_LENGTH.pack(len(data)), data]
    return b"".join(parts)


def datatype(spec: TensorSpec) -> str:
    return DATATYPES.get(spec.dtype, spec.dtype.removeprefix("DT_"))


def reshape(name: str, array: Array, shape: tuple[int, ...]) -> Array:
    """Reshape. Raises InvalidRequest for a shape that is too large for any array, though the number of values fits."""
    try:
        return array.reshape(shape)
    except (ValueError, OverflowError):
        raise InvalidRequest(f"input {name!r} has the shape {shape_text(shape)}, which is too large") from None


def _dtype(name: str, spec: TensorSpec) -> "np.dtype[Any]":
    try:
        return np.dtype(np.uint16) if spec.dtype == BFLOAT16 else DTYPES[spec.dtype]
    except KeyError:
        raise InvalidRequest(f"input {name!r}: a tensor of type {datatype(spec)} cannot be sent") from None


def _strings(name: str, data: bytes, count: int, shape: tuple[int, ...]) -> Array:
    values: list[bytes] = []
    at, end = 0, len(data)
    while at < end:
        begin = at + 4
        # A length that is cut short points beyond the end as well.
        at = begin + int.from_bytes(data[at:begin], "little")
        if at > end:
            raise InvalidRequest(_cut_short(name, len(values), data[begin - 4 :]))
        values.append(data[begin:at])
    if len(values) != count:
        raise InvalidRequest(
            f"input {name!r} has {len(values)} strings in its binary data; the shape {shape_text(shape)} has {count}"
        )
    array = np.empty(count, object)
    array[:] = values
    return array


def _cut_short(name: str, index: int, rest: bytes) -> str:
    if len(rest) < _LENGTH.size:
        return (
            f"input {name!r}: {len(rest)} bytes are left of its binary data behind {index} strings; each begins with "
            "its length in 4 bytes"
        )
    (length,) = _LENGTH.unpack_from(rest)
    return (
        f"input {name!r}: string {index} is said to have {length} bytes, and {len(rest) - _LENGTH.size} are left of "
        "its binary data"
    )
