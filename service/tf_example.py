"""tf.train.Example: named features as the protocol buffer that a SavedModel parses, without TensorFlow.

Format: tensorflow/core/example/{example,feature}.proto.

    message Example   { Features features = 1; }
    message Features  { map<string, Feature> feature = 1; }
    message Feature   { oneof kind { BytesList bytes_list = 1; FloatList float_list = 2; Int64List int64_list = 3; } }
    message BytesList { repeated bytes value = 1; }    (FloatList and Int64List packed)
"""

import struct
from collections.abc import Mapping
from typing import Any

from service.errors import InvalidRequest
from service.tensors import bytes_from_json

_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3


def encode_example(features: Mapping[str, Any], where: str) -> bytes:
    """A JSON object of features as a serialized tf.train.Example. A feature is a value or a list of values of one
    kind: whole numbers, numbers (then all are floats), strings, {"b64": ...}.

    Raises:
        InvalidRequest: a feature is of another kind; says which.
    """
    entries = b""
    for name, value in features.items():
        feature = _feature(value if isinstance(value, list) else [value], f"{where}[{name!r}]")
        entries += _field(1, _field(1, name.encode()) + _field(2, feature))
    return _field(1, entries)


def _feature(values: list[Any], where: str) -> bytes:
    kinds = set(map(type, values))
    if kinds <= {str, dict}:
        return (
            _field(_BYTES_LIST, b"".join(_field(1, bytes_from_json(value, where)) for value in values))
            if values
            else b""
        )
    if kinds == {int}:
        return _field(_INT64_LIST, _field(1, b"".join(_varint(_int64(value, where)) for value in values)))
    if kinds <= {int, float}:
        try:
            return _field(_FLOAT_LIST, _field(1, struct.pack(f"<{len(values)}f", *values)))
        except OverflowError:
            raise InvalidRequest(f"{where}: a number is out of the range of float32") from None
    raise InvalidRequest(f"{where}: expected numbers or strings of one kind, or a list of them")


def _int64(value: int, where: str) -> int:
    if not -(2**63) <= value < 2**63:
        raise InvalidRequest(f"{where}: {value} is out of the range of int64")
    return value % 2**64  # two's complement


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field (wire type 2)."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
