"""Arrays as TF_Tensors and back.

Values are copied, once each way. TensorFlow would copy an array anyway unless it begins at a multiple of 64 bytes, and
a model may keep an input or return a variable or a constant. With copies, no memory has to outlive other memory.
"""

import ctypes
import functools
import math
from typing import Any

import numpy as np

from service.engines.tensorflow.c_api import DEALLOCATOR, Library, tensorflow
from service.tensors.dtypes import DTYPES, Array
from service.tensors.tensor_proto import DATA_TYPES

STRING = 7
STRING_BYTES = 24  # sizeof(TF_TString)


@functools.cache
def numpy_type(type_number: int) -> "np.dtype[Any]":
    name = DATA_TYPES[type_number]
    if name == "DT_BFLOAT16":
        # A dependency of TensorFlow, which registers the type with NumPy.
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    if name in ("DT_COMPLEX64", "DT_COMPLEX128"):
        return np.dtype(np.complex64 if name == "DT_COMPLEX64" else np.complex128)
    return DTYPES[name]


def new_tensor(library: Library, array: Array, type_number: int) -> int:
    """A TF_Tensor with the array's values. The caller deletes it."""
    # A copy only if the type, the byte order or the memory layout differ.
    array = np.asarray(array, numpy_type(type_number), "C")
    shape = (ctypes.c_int64 * array.ndim)(*array.shape)
    if type_number == STRING:
        return _new_strings(library, array, shape)
    tensor: int | None = library.TF_AllocateTensor(type_number, shape, array.ndim, array.nbytes)
    if tensor is None:
        raise MemoryError(f"TensorFlow has no memory for a tensor of {array.nbytes} bytes")
    if array.nbytes:
        ctypes.memmove(library.TF_TensorData(tensor), array.ctypes.data, array.nbytes)
    return tensor


def to_array(library: Library, tensor: int) -> Array:
    """An array with the values of a TF_Tensor."""
    shape = tuple([library.TF_Dim(tensor, axis) for axis in range(library.TF_NumDims(tensor))])
    type_number = library.TF_TensorType(tensor)
    if type_number == STRING:
        return _strings(library, tensor, shape)
    array: Array = np.empty(shape, numpy_type(type_number))
    if array.nbytes:
        ctypes.memmove(array.ctypes.data, library.TF_TensorData(tensor), array.nbytes)
    return array


# Memory of string tensors that TensorFlow still uses, by address.
_string_memory: dict[int, Array] = {}


def _free_strings(data: int, length: int, _argument: int | None) -> None:
    for address in range(data, data + length, STRING_BYTES):
        tensorflow().TF_StringDealloc(address)
    del _string_memory[data]


# TensorFlow calls this on any thread, when the last tensor over the memory is gone: a model may keep one.
_FREE_STRINGS = DEALLOCATOR(_free_strings)


def _new_strings(library: Library, array: Array, shape: "ctypes.Array[ctypes.c_int64]") -> int:
    length = array.size * STRING_BYTES
    # Zeros are empty strings. At least one byte, for an address of its own.
    memory = np.zeros(length or 1, np.uint8)
    data = memory.ctypes.data
    _string_memory[data] = memory
    tensor: int | None = library.TF_NewTensor(STRING, shape, len(shape), data, length, _FREE_STRINGS, None)
    if tensor is None:
        raise MemoryError(f"TensorFlow has no memory for a tensor of {array.size} strings")
    try:
        for address, text in zip(range(data, data + length, STRING_BYTES), array.ravel().tolist(), strict=True):
            library.TF_StringCopy(address, text, len(text))
    except BaseException:
        library.TF_DeleteTensor(tensor)
        raise
    return tensor


def _strings(library: Library, tensor: int, shape: tuple[int, ...]) -> Array:
    data = library.TF_TensorData(tensor)
    array: Array = np.empty(math.prod(shape), object)
    for index in range(array.size):
        address = data + index * STRING_BYTES
        array[index] = ctypes.string_at(library.TF_StringGetDataPointer(address), library.TF_StringGetSize(address))
    return array.reshape(shape)
