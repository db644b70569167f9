"""JSON values as arrays of the type that a signature declares."""

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np

from service.errors import InvalidRequest
from service.tensors.dtypes import DTYPES, MAX_DIMENSIONS, Array
from service.tensors.signature import TensorSpec

_JSON_TYPES: Mapping[str, set[type]] = {"b": {bool}, "i": {int}, "u": {int}, "f": {int, float}, "O": {str, dict}}
_EXPECTED = {"b": "true or false", "i": "a whole number", "u": "a whole number", "f": "a number"}
_STRING_EXPECTED = 'a string or {"b64": "..."} with valid base64'


def array_from_json(value: Any, spec: TensorSpec, where: str) -> Array:
    """A JSON value as an array of the spec's type, with the shape of the nested lists.

    `where` names the value in messages ("instances", "inputs['x']").

    Raises:
        InvalidRequest: ragged, of the wrong type or out of the type's range; the message says where.
    """
    dtype = _dtype(spec, where)
    allowed = _JSON_TYPES[dtype.kind]
    # Level by level, so that the work for each number is done in C.
    level: list[Any] = [value]
    shape: list[int] = []
    while (kinds := set(map(type, level))) == {list}:
        lengths = set(map(len, level))
        if len(lengths) > 1:
            raise _ragged(value, len(shape), where)
        if len(shape) == MAX_DIMENSIONS:
            raise InvalidRequest(f"{where}: lists are nested too deep; expected at most {MAX_DIMENSIONS} levels")
        shape.append(lengths.pop())
        level = list(chain.from_iterable(level))
    if list in kinds:
        raise _uneven(value, len(shape), where)
    if not kinds <= allowed:
        expected = _EXPECTED.get(dtype.kind, _STRING_EXPECTED)
        raise _wrong_type(value, len(shape), where, allowed, f"{expected} (not of expected type: {_type_name(spec)})")
    if dtype.kind == "O":
        return _strings(level, shape, where)
    return _numbers(level, dtype, spec, where).reshape(shape)


def bytes_from_json(value: Any, where: str) -> bytes:
    """A string in UTF-8, or the bytes of `{"b64": "..."}`. Raises InvalidRequest."""
    data = _bytes(value)
    if data is None:
        raise _no_bytes(value, where)
    return data


def is_base64(value: Any) -> bool:
    """Whether it is an object `{"b64": "..."}`, with valid base64 or not."""
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def _dtype(spec: TensorSpec, where: str) -> "np.dtype[Any]":
    try:
        return DTYPES[spec.dtype]
    except KeyError:
        raise InvalidRequest(f"{where}: a tensor of type {spec.dtype} cannot be sent as JSON") from None


def _numbers(flat: list[Any], dtype: "np.dtype[Any]", spec: TensorSpec, where: str) -> Array:
    try:
        with np.errstate(over="ignore"):
            array = np.array(flat, dtype)
    except OverflowError:
        array = None
    if array is not None and (dtype.kind != "f" or np.isfinite(array).all()):
        return array
    limits: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    # Python's numbers: a comparison with a NumPy scalar would convert the other number to its type.
    kind = float if dtype.kind == "f" else int
    minimum, maximum = kind(limits.min), kind(limits.max)
    outside = next((number for number in flat if not minimum <= number <= maximum), "a number")
    raise InvalidRequest(
        f"{where}: {outside} is out of the range of {dtype.name} ({minimum} to {maximum}), so not of expected type: "
        f"{_type_name(spec)}"
    )


def _strings(flat: list[Any], shape: list[int], where: str) -> Array:
    array = np.empty(len(flat), object)
    for index, item in enumerate(flat):
        array[index] = _bytes(item)
        if array[index] is None:
            place = np.unravel_index(index, shape) if shape else ()
            raise _no_bytes(item, f"{where}{_subscripts(int(at) for at in place)}")
    return array.reshape(shape)


def _bytes(value: Any) -> bytes | None:
    if isinstance(value, str):
        return value.encode()
    if not is_base64(value):
        return None
    text = value["b64"]
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        # Like TensorFlow Serving, accept spaces and missing padding.
        text = "".join(text.split())
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return None


def _no_bytes(value: Any, where: str) -> InvalidRequest:
    reason = "Unable to base64 decode" if is_base64(value) else "not formatted correctly for base64 data"
    return InvalidRequest(f"{where}: expected {_STRING_EXPECTED} ({reason})")


def _type_name(spec: TensorSpec) -> str:
    """TensorFlow's name in messages: "float" for DT_FLOAT."""
    return spec.dtype.removeprefix("DT_").lower()


def _subscripts(path: Iterable[int]) -> str:
    return "".join(f"[{index}]" for index in path)


def _ragged(value: Any, depth: int, where: str) -> InvalidRequest:
    """The error for lists of different lengths at this depth; above it, all are equally long."""
    first = value
    for _ in range(depth):
        first = first[0]
    path, item = _find(value, depth, lambda item: len(item) != len(first))
    here, there = f"{len(item)} value{'s' * (len(item) != 1)}", len(first)
    return InvalidRequest(
        f"{where}{path} has {here} where {where}{'[0]' * depth} has {there}; rows must be of one length"
        f"{_unlike_the_first(value)}"
    )


def _uneven(value: Any, depth: int, where: str) -> InvalidRequest:
    """The error for lists beside other values at this depth."""
    path, item = _find(value, depth, lambda item: not isinstance(item, list))
    return InvalidRequest(
        f"{where}{path} is {_noun(item)} where its neighbours are lists; rows must be of one depth"
        f"{_unlike_the_first(value)}"
    )


def _unlike_the_first(rows: list[Any]) -> str:
    """How a row differs from the first one, in TensorFlow Serving's words."""
    size, shape = _size_and_shape(rows[0])
    for row in rows:
        here, shape_here = _size_and_shape(row)
        if here != size:
            return f" (Expecting tensor size: {size} but got: {here})"
        if shape_here != shape:
            return f" (Expecting shape {shape} but got: {shape_here})"
    return ""


def _size_and_shape(row: Any) -> tuple[int, list[int]]:
    """The number of values in a row, and the shape of the first one."""
    shape: list[int] = []
    first = row
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    size, level = 0, [row]
    while level:
        lists = [item for item in level if isinstance(item, list)]
        size += len(level) - len(lists)
        level = list(chain.from_iterable(lists))
    return size, shape


def _wrong_type(value: Any, depth: int, where: str, allowed: set[type], expected: str) -> InvalidRequest:
    path, item = _find(value, depth, lambda item: type(item) not in allowed)
    return InvalidRequest(f"{where}{path} is {_noun(item)}; expected {expected}")


def _find(value: Any, depth: int, is_wrong: Callable[[Any], bool]) -> tuple[str, Any]:
    """Subscripts ("[3][0]") and value of the first wrong item at this depth. There must be one."""

    def search(item: Any, path: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
        if len(path) < depth:
            for index, child in enumerate(item):
                yield from search(child, (*path, index))
        elif is_wrong(item):
            yield _subscripts(path), item

    return next(search(value, ()))


def _noun(item: Any) -> str:
    if item is None:
        return "null"
    if isinstance(item, bool):
        return str(item).lower()
    if isinstance(item, (int, float)):
        return f"the number {item}"
    if isinstance(item, str):
        return f"the string {item[:40]!r}"
    return "a list" if isinstance(item, list) else "an object"
