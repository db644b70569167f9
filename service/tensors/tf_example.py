"""tf.train.Example, the protocol buffer of named features that a SavedModel parses, without TensorFlow.

Format: tensorflow/core/example/{example,feature}.proto, tensorflow_serving/apis/input.proto.

    message Example   { Features features = 1; }
    message Features  { map<string, Feature> feature = 1; }
    message Feature   { oneof kind { BytesList bytes_list = 1; FloatList float_list = 2; Int64List int64_list = 3; } }
    message BytesList { repeated bytes value = 1; }    (FloatList and Int64List packed)
    message Input     { oneof kind { ExampleList example_list = 1;
                                     ExampleListWithContext example_list_with_context = 2; } }
    message ExampleList            { repeated Example examples = 1; }
    message ExampleListWithContext { repeated Example examples = 1; Example context = 2; }
"""

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from service.errors import InvalidRequest
from service.tensors.dtypes import Array
from service.tensors.json import bytes_from_json, is_base64
from service.tensors.protobuf import (
    NOTHING,
    NUMBER,
    as_bytes,
    entries,
    field,
    fields,
    repeated,
    spans,
    submessage,
    varint,
)

_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3
_KINDS = {str: _BYTES_LIST, dict: _BYTES_LIST, float: _FLOAT_LIST, int: _INT64_LIST, bool: _INT64_LIST}
_DTYPES = {_BYTES_LIST: np.dtype(object), _FLOAT_LIST: np.dtype(np.float32), _INT64_LIST: np.dtype(np.int64)}
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
        entries += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, entries)


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
        return field(_BYTES_LIST, b"".join(field(1, bytes_from_json(value, where)) for value in values))
    if kinds[0] == _INT64_LIST:
        return field(_INT64_LIST, field(1, b"".join(varint(_int64(value, where)) for value in values)))
    try:
        return field(_FLOAT_LIST, field(1, struct.pack(f"<{len(values)}f", *values)))
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


def decode_example(example: memoryview) -> dict[str, Array]:
    """The values of each feature: bytes, float32 or int64, [values]. Raises InvalidMessage."""
    # Features that come twice are merged: with a context in front they do.
    merged = [as_bytes(features) for number, features in fields(example) if number == 1]
    return {name: _values(feature) for features in merged for name, feature in entries(features, 1)}


def _values(feature: memoryview) -> Array:
    # Of a oneof the last one counts; an empty feature has no values.
    kind, begin, end = _FLOAT_LIST, 0, 0
    for number, start, stop in spans(feature, 0, len(feature)):
        if number in _DTYPES and stop != NUMBER:
            kind, begin, end = number, start, stop
    found = [(start, stop) for number, start, stop in spans(feature, begin, end) if number == 1]
    return repeated(feature, found, _DTYPES[kind])


def serialized_examples(message: memoryview) -> Array:
    """The examples of an Input as bytes, [rows], each with the context in front: concatenated messages are merged.

    Raises:
        InvalidMessage: it is damaged.
    """
    kinds = dict(fields(message))
    examples = as_bytes(kinds.get(1) or kinds.get(2) or NOTHING)
    context = bytes(submessage(examples, 2)) if 2 in kinds else b""
    found = [context + bytes(as_bytes(value)) for number, value in fields(examples) if number == 1]
    array = np.empty(len(found), object)
    array[:] = found
    return array
