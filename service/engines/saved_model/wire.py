"""Read protocol buffers field by field, without Google's library or generated classes.

Wire format: https://protobuf.dev/programming-guides/encoding/. Malformed messages raise ValueError.
"""

from collections.abc import Iterator

# A varint, or the bytes of any other field.
Value = int | memoryview

NOTHING = memoryview(b"")


def fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """Number and value of each field, in the order of the message."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        match tag & 7:
            case 0:
                value, position = _varint(message, position)
                yield tag >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, position = _varint(message, position)
            case 5:
                size = 4
            case other:
                raise ValueError(f"a protocol buffer has no wire type {other}")
        if position + size > len(message):
            raise ValueError("the protocol buffer ends in the middle of a field")
        yield tag >> 3, message[position : position + size]
        position += size


def last(message: memoryview, number: int) -> Value | None:
    """The value of a field that is not repeated: the last one wins."""
    return dict(fields(message)).get(number)


def submessage(message: memoryview, number: int) -> memoryview:
    """The message in a field; empty if there is none."""
    return as_bytes(last(message, number) or NOTHING)


def entries(message: memoryview, number: int) -> Iterator[tuple[str, memoryview]]:
    """Entries of a map<string, V>, which is a repeated message { string key = 1; V value = 2; }."""
    for field, entry in fields(message):
        if field == number:
            parts = dict(fields(as_bytes(entry)))
            yield as_text(parts.get(1)), as_bytes(parts.get(2, NOTHING))


def numbers(value: Value) -> list[int]:
    """Numbers in one value of a repeated field: one, or several packed into bytes."""
    if isinstance(value, int):
        return [value]
    found, position = [], 0
    while position < len(value):
        number, position = _varint(value, position)
        found.append(number)
    return found


def signed(value: int) -> int:
    """An int64 or int32 from its two's complement in 64 bits."""
    return value - 2**64 if value >= 2**63 else value


def as_int(value: Value) -> int:
    if not isinstance(value, int):
        raise ValueError("the protocol buffer has bytes where a number belongs")
    return value


def as_bytes(value: Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("the protocol buffer has a number where bytes belong")
    return value


def as_text(value: Value | None) -> str:
    return "" if value is None else bytes(as_bytes(value)).decode()


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """The number at this position, and the position behind it."""
    value = shift = 0
    for position in range(position, min(position + 10, len(message))):  # noqa: B020
        value |= (message[position] & 0x7F) << shift
        shift += 7
        if message[position] < 0x80:
            return value, position + 1
    raise ValueError("the protocol buffer ends in the middle of a number, or has one that is too long")
