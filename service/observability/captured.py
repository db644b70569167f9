"""A captured request as a line of JSON: what a version was asked, and what it answered."""

from collections.abc import Mapping
from datetime import datetime
from math import prod

import msgspec
import numpy as np

from service.tensors.json import DATATYPES, DTYPES, Array, shape_text

Arrays = Mapping[str, Array]

_DTYPE_OF = {DATATYPES[name]: dtype for name, dtype in DTYPES.items()}
_DATATYPE_OF = {dtype: datatype for datatype, dtype in _DTYPE_OF.items()}
_STRINGS = "BYTES"


class Tensor(msgspec.Struct, frozen=True):
    """By the Open Inference Protocol's names. `data`: base64 of the bytes, little-endian and row by row; of BYTES one
    base64 for each string."""

    datatype: str
    shape: tuple[int, ...]
    data: bytes | list[bytes]


class Captured(msgspec.Struct, frozen=True, omit_defaults=True):
    """`labels`: which came first in each row, where the version has labels."""

    time: datetime
    request_id: str
    model: str
    version: int
    engine: str
    protocol: str
    verb: str
    signature: str
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    labels: list[str] | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Captured)


def encode_line(captured: Captured) -> bytes:
    return _encoder.encode(captured) + b"\n"


def decode_line(line: bytes) -> Captured:
    """Raises ValueError where it is damaged, or no such line."""
    return _decoder.decode(line)


def tensors(arrays: Arrays) -> dict[str, Tensor]:
    """Raises ValueError where one is of a type that the protocol has no name for."""
    return {name: _tensor(name, array) for name, array in arrays.items()}


def arrays(tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    """Raises ValueError where one is not what it says."""
    return {name: _array(name, tensor) for name, tensor in tensors.items()}


def _tensor(name: str, array: Array) -> Tensor:
    if array.dtype.kind in "OS":
        return Tensor(_STRINGS, array.shape, [_bytes(each) for each in array.ravel().tolist()])
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    datatype = _DATATYPE_OF.get(array.dtype)
    if datatype is None:
        raise ValueError(f"{name!r} is of the type {array.dtype.name}, which has no name")
    return Tensor(datatype, array.shape, array.tobytes())


def _bytes(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def _array(name: str, tensor: Tensor) -> Array:
    dtype = _DTYPE_OF.get(tensor.datatype)
    if dtype is None:
        raise ValueError(f"{name!r} has the datatype {tensor.datatype!r}; expected one of {', '.join(_DTYPE_OF)}")
    if any(size < 0 for size in tensor.shape):
        raise ValueError(f"{name!r} has the shape {shape_text(tensor.shape)}; no size is below 0")
    count = prod(tensor.shape)
    if isinstance(tensor.data, bytes):
        held, is_strings = len(tensor.data) / dtype.itemsize, False
    else:
        held, is_strings = len(tensor.data), True
    if is_strings != (tensor.datatype == _STRINGS) or held != count:
        raise ValueError(
            f"{name!r} has {held:g} {'strings' if is_strings else 'values'}; a tensor of {tensor.datatype} and shape "
            f"{shape_text(tensor.shape)} has {count}"
        )
    if isinstance(tensor.data, bytes):
        return np.frombuffer(tensor.data, dtype).reshape(tensor.shape)
    array = np.empty(count, object)
    array[:] = tensor.data
    return array.reshape(tensor.shape)
