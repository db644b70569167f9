"""Protocol buffers, read and written without Google's library or generated classes.

Wire format: https://protobuf.dev/programming-guides/encoding/. Damaged messages raise InvalidMessage. `spans` is for
requests: it copies nothing. `fields` is for what is read once.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from service.errors import InvalidRequest
from service.tensors.dtypes import Array

# A varint, or the bytes of any other field.
Value = int | memoryview
Data = bytes | memoryview

NOTHING = memoryview(b"")
# In the place of a span's end: its start is the number itself.
NUMBER = -1

_MAX_VARINT_BYTES = 10


class InvalidMessage(InvalidRequest, ValueError):
    """A file's or a client's message is damaged, or does not fit its type."""


# Read


def spans(data: Data, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each field of the message at data[start:end], in its order. A varint is itself in the
    place of its start, with NUMBER as its end."""
    while start < end:
        tag = data[start]
        start += 1
        if tag > 127:
            tag, start = _varint(data, start - 1, end)
        kind = tag & 7
        if kind == 2:
            if start >= end:
                raise InvalidMessage("the protocol buffer ends in the middle of a field")
            size = data[start]
            start += 1
            if size > 127:
                size, start = _varint(data, start - 1, end)
        elif kind == 0:
            number, start = _varint(data, start, end)
            yield tag >> 3, number, NUMBER
            continue
        elif kind == 5:
            size = 4
        elif kind == 1:
            size = 8
        else:
            raise InvalidMessage(f"a protocol buffer has no wire type {kind}")
        begin, start = start, start + size
        if start > end:
            raise InvalidMessage("the protocol buffer ends in the middle of a field")
        yield tag >> 3, begin, start


def text(data: Data, start: int, end: int) -> str:
    """The string of a span."""
    try:
        return str(content(data, start, end), "utf-8")
    except UnicodeDecodeError:
        raise InvalidMessage("the protocol buffer has a text that is no UTF-8") from None


def content(data: Data, start: int, end: int) -> Data:
    """The bytes of a span."""
    if end == NUMBER:
        raise InvalidMessage("the protocol buffer has a number where bytes belong")
    return data[start:end]


def number(start: int, end: int) -> int:
    """The number of a span; of a signed type in two's complement."""
    if end != NUMBER:
        raise InvalidMessage("the protocol buffer has bytes where a number belongs")
    return start - 2**64 if start >= 2**63 else start


def fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """Number and value of each field, in the order of the message."""
    for key, start, end in spans(message, 0, len(message)):
        yield key, start if end == NUMBER else message[start:end]


def last(message: memoryview, number: int) -> Value | None:
    """The value of a field that is not repeated: the last one wins."""
    return dict(fields(message)).get(number)


def submessage(message: memoryview, number: int) -> memoryview:
    """The message in a field; empty if there is none."""
    return as_bytes(last(message, number) or NOTHING)


def entries(message: memoryview, number: int) -> Iterator[tuple[str, memoryview]]:
    """Entries of a map<string, V>, which is a repeated message { string key = 1; V value = 2; }."""
    for field_number, entry in fields(message):
        if field_number == number:
            parts = dict(fields(as_bytes(entry)))
            yield as_text(parts.get(1)), as_bytes(parts.get(2, NOTHING))


def varints(data: Data, start: int, end: int) -> Array:
    """Packed varints, as uint64."""
    raw = np.frombuffer(data, np.uint8, end - start, start)
    if not len(raw):
        return np.empty(0, np.uint64)
    last_bytes = np.flatnonzero(raw < 128)
    if len(last_bytes) == len(raw):
        return raw.astype(np.uint64)
    first_bytes = np.concatenate(([0], last_bytes[:-1] + 1))
    lengths = last_bytes - first_bytes + 1
    if not len(last_bytes) or last_bytes[-1] != len(raw) - 1 or lengths.max() > _MAX_VARINT_BYTES:
        raise InvalidMessage("the protocol buffer ends in the middle of a number, or has one that is too long")
    places = np.arange(len(raw)) - np.repeat(first_bytes, lengths)
    numbers: Array = np.bitwise_or.reduceat(
        (raw & 127).astype(np.uint64) << (7 * places).astype(np.uint64), first_bytes
    )
    return numbers


def repeated(data: Data, found: Sequence[tuple[int, int]], dtype: "np.dtype[Any]") -> Array:
    """The values of a repeated field, [values]. `found`: the span of each value, or of several packed ones. Half
    precision is written as the bits of a number.

    Raises:
        InvalidMessage: a number is out of the type's range, or the bytes are no whole numbers.
    """
    if dtype.hasobject:
        strings = np.empty(len(found), object)
        strings[:] = [bytes(content(data, start, end)) for start, end in found]
        return strings
    if dtype.kind == "f" and dtype.itemsize > 2:
        packed = b"".join([content(data, start, end) for start, end in found])
        if len(packed) % dtype.itemsize:
            raise InvalidMessage(f"{len(packed)} bytes are no whole numbers of the type {dtype}")
        return np.frombuffer(packed, dtype)
    parts = [np.array([start], np.uint64) if end == NUMBER else varints(data, start, end) for start, end in found]
    numbers: Array = np.concatenate(parts) if parts else np.empty(0, np.uint64)
    if dtype.kind == "f":
        return numbers.astype(np.uint16).view(dtype)
    if dtype.kind == "b":
        return numbers.astype(bool)
    if dtype.kind == "i":
        numbers = numbers.view(np.int64)
    limits = np.iinfo(dtype)
    if len(numbers) and not (limits.min <= numbers.min() and numbers.max() <= limits.max):
        raise InvalidMessage(f"a tensor of the type {dtype} holds a number out of its range")
    return numbers.astype(dtype)


def signed(value: int) -> int:
    """An int64 or int32 from its two's complement in 64 bits."""
    return value - 2**64 if value >= 2**63 else value


def as_int(value: Value) -> int:
    if not isinstance(value, int):
        raise InvalidMessage("the protocol buffer has bytes where a number belongs")
    return value


def as_bytes(value: Value) -> memoryview:
    if isinstance(value, int):
        raise InvalidMessage("the protocol buffer has a number where bytes belong")
    return value


def as_text(value: Value | None) -> str:
    return "" if value is None else text(as_bytes(value), 0, len(as_bytes(value)))


def _varint(data: Data, position: int, end: int) -> tuple[int, int]:
    """The number at this position, and the position behind it."""
    value = shift = 0
    for here in range(position, min(position + _MAX_VARINT_BYTES, end)):
        byte = data[here]
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, here + 1
        shift += 7
    raise InvalidMessage("the protocol buffer ends in the middle of a number, or has one that is too long")


# Write


def varint(value: int) -> bytes:
    """`value`: an int64 or uint64."""
    if 0 <= value < 128:
        return _SMALL[value]
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


_SMALL = [bytes([value]) for value in range(128)]


def field(number: int, *parts: "bytes | memoryview[Any]") -> bytes:
    """A string, bytes or message, made of these parts."""
    size = 0
    for part in parts:
        size += len(part)
    return b"".join((varint(number << 3 | 2), varint(size), *parts))


def number_field(number: int, value: int) -> bytes:
    """A number; nothing where it is 0, which stands for itself."""
    return varint(number << 3) + varint(value) if value else b""


def text_field(number: int, value: str) -> bytes:
    """A string; nothing where it is empty."""
    return field(number, value.encode()) if value else b""


def pack_varints(numbers: Array) -> bytes:
    """Integers or booleans, packed as varints."""
    values = np.ascontiguousarray(numbers).ravel()
    if values.dtype.kind == "b":
        return values.tobytes()
    if not len(values):
        return b""
    values = values.astype(np.int64).view(np.uint64) if values.dtype.kind == "i" else values.astype(np.uint64)
    highest = int(values.max())
    if highest < 128:
        return values.astype(np.uint8).tobytes()
    width = (highest.bit_length() + 6) // 7
    groups = values[:, None] >> (7 * np.arange(width, dtype=np.uint64))
    # A byte is there if anything is left at its place, and the first always is.
    is_there = groups != 0
    is_there[:, 0] = True
    is_followed = np.zeros_like(is_there)
    is_followed[:, :-1] = is_there[:, 1:]
    out: bytes = ((groups & 127) | (is_followed.astype(np.uint64) << 7)).astype(np.uint8)[is_there].tobytes()
    return out
