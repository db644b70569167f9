"""Datatypes and shapes of tensors, and whether they match a signature."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from service.errors import InvalidRequest
from service.tensors.signature import TensorSpec

Array = np.ndarray[Any, Any]

# By their names in TensorFlow's types.proto. Strings are bytes in arrays of objects.
DTYPES: Mapping[str, "np.dtype[Any]"] = {
    "DT_BOOL": np.dtype(np.bool_),
    "DT_INT8": np.dtype(np.int8),
    "DT_INT16": np.dtype(np.int16),
    "DT_INT32": np.dtype(np.int32),
    "DT_INT64": np.dtype(np.int64),
    "DT_UINT8": np.dtype(np.uint8),
    "DT_UINT16": np.dtype(np.uint16),
    "DT_UINT32": np.dtype(np.uint32),
    "DT_UINT64": np.dtype(np.uint64),
    "DT_HALF": np.dtype(np.float16),
    "DT_FLOAT": np.dtype(np.float32),
    "DT_DOUBLE": np.dtype(np.float64),
    "DT_STRING": np.dtype(object),
}

# Their names in the Open Inference Protocol.
DATATYPES: Mapping[str, str] = {
    "DT_BOOL": "BOOL",
    "DT_INT8": "INT8",
    "DT_INT16": "INT16",
    "DT_INT32": "INT32",
    "DT_INT64": "INT64",
    "DT_UINT8": "UINT8",
    "DT_UINT16": "UINT16",
    "DT_UINT32": "UINT32",
    "DT_UINT64": "UINT64",
    "DT_HALF": "FP16",
    "DT_FLOAT": "FP32",
    "DT_DOUBLE": "FP64",
    "DT_BFLOAT16": "BF16",
    "DT_STRING": "BYTES",
}

# NumPy's limit.
MAX_DIMENSIONS = 64


def size_of(arrays: Mapping[str, Array]) -> int:
    """Size in bytes, including the strings."""
    size = 0
    for array in arrays.values():
        size += array.nbytes
        if array.dtype.hasobject:
            size += sum(map(len, array.ravel().tolist()))
    return size


def check_shape(name: str, array: Array, spec: TensorSpec) -> None:
    """Raise InvalidRequest if the input `name` does not have a shape that the spec accepts."""
    if not has_fitting_shape(array, spec):
        raise InvalidRequest(
            f"input {name!r} has the shape {shape_text(array.shape)}; expected {declared_shape(spec)} (-1: any size)"
        )


def has_fitting_shape(array: Array, spec: TensorSpec) -> bool:
    """Whether the engine accepts an array of this shape."""
    return has_declared_shape(array, spec) or not spec.is_held


def has_declared_shape(array: Array, spec: TensorSpec) -> bool:
    declared, shape = spec.shape, array.shape
    # Usually only the batch size is free, which is quick to check.
    if declared is None or (shape and declared[0:1] == (-1,) and declared[1:] == shape[1:]):
        return True
    return len(declared) == len(shape) and all(size in (-1, here) for size, here in zip(declared, shape, strict=True))


def declared_shape(spec: TensorSpec) -> str:
    return "any shape" if spec.shape is None else shape_text(spec.shape)


def shape_text(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
