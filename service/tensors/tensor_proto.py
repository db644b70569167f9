"""tensorflow.TensorProto as an array and back, without TensorFlow.

Format: tensorflow/core/framework/{tensor,tensor_shape,types}.proto.

    message TensorProto { DataType dtype = 1; TensorShapeProto tensor_shape = 2; bytes tensor_content = 4;
                          repeated float float_val = 5; repeated double double_val = 6; repeated int32 int_val = 7;
                          repeated bytes string_val = 8; repeated int64 int64_val = 10; repeated bool bool_val = 11;
                          repeated int32 half_val = 13; repeated uint32 uint32_val = 16;
                          repeated uint64 uint64_val = 17; }
    message TensorShapeProto { message Dim { int64 size = 1; } repeated Dim dim = 2; bool unknown_rank = 3; }

Values are in `tensor_content`, as in memory, or in the field of their type. If that field has fewer values than the
shape, the last one is repeated.
"""

from collections.abc import Mapping
from functools import lru_cache
from math import prod

import numpy as np

from service.tensors.dtypes import DTYPES, MAX_DIMENSIONS, Array
from service.tensors.protobuf import (
    NUMBER,
    Data,
    InvalidMessage,
    field,
    number,
    number_field,
    pack_varints,
    repeated,
    spans,
    varint,
)

# enum DataType, without the types that have no array.
DATA_TYPES = {
    1: "DT_FLOAT",
    2: "DT_DOUBLE",
    3: "DT_INT32",
    4: "DT_UINT8",
    5: "DT_INT16",
    6: "DT_INT8",
    7: "DT_STRING",
    8: "DT_COMPLEX64",
    9: "DT_INT64",
    10: "DT_BOOL",
    14: "DT_BFLOAT16",
    17: "DT_UINT16",
    18: "DT_COMPLEX128",
    19: "DT_HALF",
    22: "DT_UINT32",
    23: "DT_UINT64",
}
TYPE_NUMBERS: Mapping[str, int] = {name: number for number, name in DATA_TYPES.items()}

_DTYPE, _SHAPE, _CONTENT = 1, 2, 4
_FLOAT, _DOUBLE, _INT, _STRING, _INT64, _BOOL, _HALF, _UINT32, _UINT64 = 5, 6, 7, 8, 10, 11, 13, 16, 17
_FIELDS = {
    "DT_FLOAT": _FLOAT,
    "DT_DOUBLE": _DOUBLE,
    "DT_STRING": _STRING,
    "DT_INT64": _INT64,
    "DT_BOOL": _BOOL,
    "DT_HALF": _HALF,
    "DT_BFLOAT16": _HALF,
    "DT_UINT32": _UINT32,
    "DT_UINT64": _UINT64,
}
# Engines take float32 in its place.
_BFLOAT16 = "DT_BFLOAT16"
# Of shapes that are kept.
MAX_CACHED_BYTES = 64
# A few bytes may ask for a tensor of any size, of one value repeated.
MAX_REPEATED_BYTES = 32 * 1024 * 1024
# Of arrays' types.
NAME_OF = {dtype: name for name, dtype in DTYPES.items()}


def read_tensor(data: Data, start: int = 0, end: int | None = None) -> tuple[str, Array]:
    """The type ("DT_FLOAT") and the array of the TensorProto at data[start:end]; of bfloat16 as float32. The array is a
    view of `tensor_content`, where the values are there.

    Raises:
        InvalidMessage: it is damaged, or type, shape and values do not match.
    """
    name = ""
    shape: tuple[int, ...] | None = ()
    content: tuple[int, int] | None = None
    # The values of all types: which of them count is known once the type is.
    values: dict[int, list[tuple[int, int]]] = {}
    for key, begin, stop in spans(data, start, len(data) if end is None else end):
        if key == _CONTENT and stop != NUMBER:
            content = (begin, stop)
        elif key == _DTYPE:
            name = DATA_TYPES.get(number(begin, stop), "unknown")
        elif key == _SHAPE:
            shape = _shape(bytes(data[begin:stop])) if stop != NUMBER else ()
        else:
            values.setdefault(key, []).append((begin, stop))
    dtype = np.dtype(np.uint16) if name == _BFLOAT16 else DTYPES.get(name)
    if dtype is None or shape is None or (shape and min(shape) < 0) or len(shape) > MAX_DIMENSIONS:
        raise InvalidMessage(f"a tensor of the type {name or 'unknown'} and the shape {shape} cannot be read")
    if content is not None and name != "DT_STRING":
        size = content[1] - content[0]
        if size % dtype.itemsize:
            raise InvalidMessage(f"a tensor of the type {name} has {size} bytes of content, which are no whole numbers")
        array = np.frombuffer(data, dtype, size // dtype.itemsize, content[0])
    else:
        wanted = _FIELDS.get(name, _INT)
        array = repeated(data, values.get(wanted, []), dtype)
    if name == _BFLOAT16:
        # The upper half of a float32.
        array = (array.astype(np.uint32) << 16).view(np.float32)
    elif dtype.kind == "b" and content is not None and len(array) and array.view(np.uint8).max() > 1:
        raise InvalidMessage("a tensor of the type DT_BOOL has a byte that is neither 0 nor 1")
    return name, _filled(array, shape)


def read_shape(data: Data) -> tuple[int, ...] | None:
    """The shape in a TensorShapeProto; None if even the rank is unknown."""
    shape = []
    for key, begin, stop in spans(data, 0, len(data)):
        if key == 2:
            size = 0
            for dim_key, value, kind in spans(data, begin, stop):
                if dim_key == 1:
                    size = number(value, kind)
            shape.append(size)
        elif key == 3 and begin:
            return None
    return tuple(shape)


def _shape(content: bytes) -> tuple[int, ...] | None:
    return _kept_shape(content) if len(content) <= MAX_CACHED_BYTES else read_shape(content)


_kept_shape = lru_cache(1024)(read_shape)


def _filled(values: Array, shape: tuple[int, ...]) -> Array:
    size = prod(shape)
    try:
        if len(values) == size:
            return values.reshape(shape)
        if 0 < len(values) < size and size * values.itemsize <= MAX_REPEATED_BYTES:
            return np.concatenate([values, np.repeat(values[-1:], size - len(values))]).reshape(shape)
    except (ValueError, OverflowError):
        raise InvalidMessage(f"a tensor of the shape {shape} is too large") from None
    raise InvalidMessage(f"a tensor of the shape {shape} holds {len(values)} values")


def write_tensor(array: Array, *, as_content: bool = False) -> list["bytes | memoryview"]:
    """The parts of a TensorProto: typed values, or `tensor_content`; strings are typed values always.

    Raises:
        ValueError: there is no such type.
    """
    name = NAME_OF.get(array.dtype) or ("DT_STRING" if array.dtype.kind == "S" else f"DT_{array.dtype.name.upper()}")
    number = TYPE_NUMBERS.get(name)
    if number is None or array.dtype.kind == "c":
        raise InvalidMessage(f"a tensor of the type {array.dtype.name} cannot be sent")
    head = _head(number, array.shape)
    if name == "DT_STRING":
        return [
            head,
            *[field(_STRING, value if isinstance(value, bytes) else str(value).encode()) for value in array.flat],
        ]
    wanted = _FIELDS.get(name, _INT)
    packed: bytes | memoryview
    if as_content or wanted in (_FLOAT, _DOUBLE):
        wanted = _CONTENT if as_content else wanted
        packed = np.ascontiguousarray(array).data.cast("B") if array.size else b""
    else:
        packed = pack_varints(array.view(np.uint16) if wanted == _HALF else array)
    return [head, varint(wanted << 3 | 2), varint(len(packed)), packed] if packed else [head]


@lru_cache(1024)
def _head(number: int, shape: tuple[int, ...]) -> bytes:
    """Type and shape."""
    return number_field(_DTYPE, number) + field(_SHAPE, *[field(2, number_field(1, size)) for size in shape])
