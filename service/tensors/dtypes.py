"""Datatypes of tensors, and their shapes against what a signature declares."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from service.errors import InvalidRequest
from service.tensors.signature import TensorSpec

Array = np.ndarray[Any, Any]

# By the names of TensorFlow's types.proto. Strings are bytes in arrays of objects.
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

# As the Open Inference Protocol calls them.
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
    """In bytes, with those of the strings."""
    size = 0
    for array in arrays.values():
        size += array.nbytes
        if array.dtype.hasobject:
            size += sum(map(len, array.ravel().tolist()))
    return size


def check_shape(name: str, array: Array, spec: TensorSpec) -> None:
    """Raises InvalidRequest where the shape of the input `name` is not one that the spec takes."""
    if not has_fitting_shape(array, spec):
        raise InvalidRequest(
            f"input {name!r} has the shape {shape_text(array.shape)}; expected {declared_shape(spec)} (-1: any size)"
        )


def has_fitting_shape(array: Array, spec: TensorSpec) -> bool:
    """Whether what runs the signature takes such an array."""
    return has_declared_shape(array, spec) or not spec.is_held


def has_declared_shape(array: Array, spec: TensorSpec) -> bool:
    expected, given = spec.shape, array.shape
    # Most often the batch alone is free, and to see that is quick.
    if expected is None or (given and expected[0:1] == (-1,) and expected[1:] == given[1:]):
        return True
    return len(expected) == len(given) and all(size in (-1, here) for size, here in zip(expected, given, strict=True))


def declared_shape(spec: TensorSpec) -> str:
    return "any shape" if spec.shape is None else shape_text(spec.shape)


def shape_text(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
