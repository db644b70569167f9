"""tensorflow.TensorProto as an array, without TensorFlow.

Format: tensorflow/core/framework/tensor.proto.

    message TensorProto { DataType dtype = 1; TensorShapeProto tensor_shape = 2; bytes tensor_content = 4;
                          repeated float float_val = 5; repeated double double_val = 6; repeated int32 int_val = 7;
                          repeated bytes string_val = 8; repeated int64 int64_val = 10; repeated bool bool_val = 11;
                          repeated int32 half_val = 13; repeated uint32 uint32_val = 16;
                          repeated uint64 uint64_val = 17; }

Values are in `tensor_content`, as in memory, or in the field of their type. If that field has fewer values than the
shape, the last one is repeated.
"""

import math

import numpy as np

from service.engines.saved_model.meta_graph import DATA_TYPES, read_shape
from service.engines.saved_model.wire import NOTHING, Value, as_bytes, as_int, fields, numbers, signed
from service.tensors.dtypes import DTYPES, Array

_CONTENT, _FLOAT, _DOUBLE, _INT, _STRING, _INT64, _BOOL, _HALF, _UINT32, _UINT64 = 4, 5, 6, 7, 8, 10, 11, 13, 16, 17
_FIELDS = {
    "DT_FLOAT": _FLOAT,
    "DT_DOUBLE": _DOUBLE,
    "DT_STRING": _STRING,
    "DT_INT64": _INT64,
    "DT_BOOL": _BOOL,
    "DT_HALF": _HALF,
    "DT_UINT32": _UINT32,
    "DT_UINT64": _UINT64,
}


def read_tensor(message: memoryview) -> Array:
    """The array in a TensorProto. Raises ValueError if it is damaged, or type, shape and values do not match."""
    parts = list(fields(message))
    singles = dict(parts)
    name = DATA_TYPES.get(as_int(singles.get(1, 0)), "")
    dtype = DTYPES.get(name)
    shape = read_shape(as_bytes(singles.get(2, NOTHING)))
    if dtype is None or shape is None or any(size < 0 for size in shape):
        raise ValueError(f"a tensor of the type {name or 'unknown'} and the shape {shape} cannot be read")
    if _CONTENT in singles and name != "DT_STRING":
        values: Array = np.frombuffer(as_bytes(singles[_CONTENT]), dtype.newbyteorder("<")).astype(dtype)
    else:
        field = _FIELDS.get(name, _INT)
        values = _values([value for number, value in parts if number == field], field, dtype)
    return _filled(values, shape)


def _values(raw: list[Value], field: int, dtype: "np.dtype[np.generic]") -> Array:
    if field == _STRING:
        strings = np.empty(len(raw), object)
        strings[:] = [bytes(as_bytes(value)) for value in raw]
        return strings
    if field in (_FLOAT, _DOUBLE):
        return np.frombuffer(b"".join(as_bytes(value) for value in raw), dtype.newbyteorder("<")).astype(dtype)
    whole = [number for value in raw for number in numbers(value)]
    if field == _HALF:
        return np.array(whole, np.uint16).view(np.float16)
    if dtype.kind == "i":
        whole = [signed(number) for number in whole]
    try:
        return np.array(whole, dtype)
    except OverflowError:
        raise ValueError(f"a tensor of the type {dtype} holds a number out of its range") from None


def _filled(values: Array, shape: tuple[int, ...]) -> Array:
    size = math.prod(shape)
    if len(values) > size or (size and not len(values)):
        raise ValueError(f"a tensor of the shape {shape} holds {len(values)} values")
    if len(values) < size:
        values = np.concatenate([values, np.repeat(values[-1:], size - len(values))])
    return values.reshape(shape)
