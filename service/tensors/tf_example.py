"""Encode tf.train.Example, the protocol buffer of named features that a SavedModel parses, without TensorFlow.

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
from service.tensors.json import bytes_from_json, is_base64

_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3
_KINDS = {str: _BYTES_LIST, dict: _BYTES_LIST, float: _FLOAT_LIST, int: _INT64_LIST, bool: _INT64_LIST}
_KIND_NAMES = {_BYTES_LIST: "bytes", _FLOAT_LIST: "float", _INT64_LIST: "int64"}


def encode_example(features: Mapping[str, Any], where: str) -> bytes:
    """A JSON object of features as a tf.train.Example. A feature is a value or a list of values of one kind: whole
    numbers and booleans, numbers with a decimal point or an exponent, or strings and {"b64": ...}.

    Raises:
        InvalidRequest: names the feature of another kind.
    """
    entries = b""
    for name, value in features.items():
        feature = _feature(name, value if isinstance(value, list) else [value], f"{where}[{name!r}]")
        entries += _field(1, _field(1, name.encode()) + _field(2, feature))
    return _field(1, entries)


def _feature(name: str, values: list[Any], where: str) -> bytes:
    if not values:
        return b""
    kinds = [_kind(name, value, where) for value in values]
    if len(set(kinds)) > 1:
        raise InvalidRequest(
            f"{where}: Unexpected element type in feature: {name} expecting type: {_KIND_NAMES[kinds[0]]}, "
            "the type of its first value"
        )
    if kinds[0] == _BYTES_LIST:
        return _field(_BYTES_LIST, b"".join(_field(1, bytes_from_json(value, where)) for value in values))
    if kinds[0] == _INT64_LIST:
        return _field(_INT64_LIST, _field(1, b"".join(_varint(_int64(value, where)) for value in values)))
    try:
        return _field(_FLOAT_LIST, _field(1, struct.pack(f"<{len(values)}f", *values)))
    except OverflowError:
        raise InvalidRequest(f"{where}: a number is out of the range of float32") from None


def _kind(name: str, value: Any, where: str) -> int:
    """The list for a value."""
    if type(value) in _KINDS and (not isinstance(value, dict) or is_base64(value)):
        return _KINDS[type(value)]
    json_type = "Null" if value is None else "Array" if isinstance(value, list) else "Object"
    raise InvalidRequest(
        f"{where}: Feature: {name} has element with unexpected JSON type: {json_type}; expected numbers, booleans, "
        'strings or {"b64": "..."}, or a list of them'
    )


def _int64(value: int, where: str) -> int:
    if not -(2**63) <= value < 2**63:
        raise InvalidRequest(f"{where}: {value} is out of the range of int64 (Only int64_t is supported)")
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
