"""Messages of protos/*.proto as dictionaries, for what is not called often. Predictions have decoders of their own.

`protos/descriptors.binpb` is those files compiled: protoc's FileDescriptorSet (google/protobuf/descriptor.proto).
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from service.http import GRPC_CONTENT_TYPE, Request, Response
from service.tensors.protobuf import (
    NOTHING,
    InvalidMessage,
    Value,
    as_bytes,
    as_int,
    as_text,
    field,
    fields,
    last,
    signed,
    varint,
    varints,
)

_DESCRIPTORS = Path(__file__).parent / "protos" / "descriptors.binpb"

# FieldDescriptorProto.Type
_DOUBLE, _FLOAT, _BOOL, _STRING, _MESSAGE, _BYTES, _ENUM = 1, 2, 8, 9, 11, 12, 14
_LENGTH_DELIMITED = (_STRING, _MESSAGE, _BYTES)
_FIXED = {_DOUBLE: (struct.Struct("<d"), 1), _FLOAT: (struct.Struct("<f"), 5)}
_REPEATED = 3


@dataclass(frozen=True, slots=True)
class _Field:
    """`type_name`: of a message or an enum, ".inference.ModelConfig"."""

    name: str
    number: int
    kind: int
    is_repeated: bool
    type_name: str


@dataclass(frozen=True, slots=True)
class _Message:
    by_name: Mapping[str, _Field]
    by_number: Mapping[int, _Field]
    is_map_entry: bool


@dataclass(frozen=True, slots=True)
class Descriptors:
    """`files`: each FileDescriptorProto, by its name. `file_of`: the name of the file that defines a symbol."""

    files: Mapping[str, bytes]
    dependencies: Mapping[str, list[str]]
    file_of: Mapping[str, str]
    services: list[str]
    messages: Mapping[str, _Message]
    enums: Mapping[str, Mapping[str, int]]

    def needed(self, file: str) -> list[str]:
        """The file, and those that it imports."""
        names = [file]
        for name in names:
            names += [each for each in self.dependencies[name] if each not in names]
        return names


def encode(message: str, values: Mapping[str, Any]) -> bytes:
    """`message`: its full name. `values`: by field; nested messages as mappings, enums by name. What is missing or the
    default is left out."""
    fields_of = descriptors().messages[f".{message}"].by_name
    return b"".join([part for name, value in values.items() for part in _encoded(fields_of[name], value)])


def decode(message: str, data: memoryview) -> dict[str, Any]:
    """The fields that are there, by name; enums by number. Raises InvalidMessage."""
    fields_of = descriptors().messages[f".{message}"].by_number
    values: dict[str, Any] = {}
    for number, raw in fields(data):
        of = fields_of.get(number)
        if of is None:
            continue
        if of.type_name and of.is_repeated and (entry := _map_entry(of)) is not None:
            pair = decode(of.type_name[1:], as_bytes(raw))
            default: Any = {} if entry.by_name["value"].kind == _MESSAGE else 0
            values.setdefault(of.name, {})[pair.get("key", "")] = pair.get("value", default)
        elif of.is_repeated:
            values.setdefault(of.name, []).extend(_decoded(of, raw))
        else:
            for value in _decoded(of, raw):
                # The last one counts.
                values[of.name] = value
    return values


def decode_request(message: str, request: Request) -> dict[str, Any]:
    """The same of a request's body. Raises InvalidMessage."""
    return decode(message, memoryview(request.body))


def encode_response(message: str, values: Mapping[str, Any]) -> Response:
    return Response(200, encode(message, values), GRPC_CONTENT_TYPE)


@cache
def descriptors() -> Descriptors:
    """Read once, when something first asks for it."""
    files: dict[str, bytes] = {}
    dependencies: dict[str, list[str]] = {}
    file_of: dict[str, str] = {}
    services: list[str] = []
    messages: dict[str, _Message] = {}
    enums: dict[str, Mapping[str, int]] = {}
    for _, file in fields(memoryview(_DESCRIPTORS.read_bytes())):
        content = as_bytes(file)
        parts = list(fields(content))
        name, package = as_text(last(content, 1)), as_text(last(content, 2))
        files[name] = bytes(content)
        dependencies[name] = [as_text(value) for number, value in parts if number == 3]
        symbols: list[str] = []
        for number, value in parts:
            if number == 4:
                symbols += _read_message(as_bytes(value), f".{package}", messages, enums)
            elif number == 5:
                symbols.append(_read_enum(as_bytes(value), f".{package}", enums))
            elif number == 6:
                service = f"{package}.{as_text(last(as_bytes(value), 1))}"
                services.append(service)
                methods = [as_bytes(method) for key, method in fields(as_bytes(value)) if key == 2]
                symbols += [f".{service}", *(f".{service}.{as_text(last(method, 1))}" for method in methods)]
        file_of |= {symbol[1:]: name for symbol in symbols}
    return Descriptors(files, dependencies, file_of, sorted(services), messages, enums)


def _read_message(
    content: memoryview, scope: str, messages: dict[str, _Message], enums: dict[str, Mapping[str, int]]
) -> Iterator[str]:
    """Its name, and those of the messages and enums within it."""
    name = f"{scope}.{as_text(last(content, 1))}"
    found = []
    for number, value in fields(content):
        if number == 2:
            found.append(_read_field(as_bytes(value)))
        elif number == 3:
            yield from _read_message(as_bytes(value), name, messages, enums)
        elif number == 4:
            yield _read_enum(as_bytes(value), name, enums)
    is_map_entry = bool(last(as_bytes(last(content, 7) or NOTHING), 7))
    messages[name] = _Message({of.name: of for of in found}, {of.number: of for of in found}, is_map_entry)
    yield name


def _read_field(content: memoryview) -> _Field:
    parts = dict(fields(content))
    return _Field(
        as_text(parts[1]), as_int(parts[3]), as_int(parts[5]), parts.get(4) == _REPEATED, as_text(parts.get(6))
    )


def _read_enum(content: memoryview, scope: str, enums: dict[str, Mapping[str, int]]) -> str:
    name = f"{scope}.{as_text(last(content, 1))}"
    values = [dict(fields(as_bytes(value))) for number, value in fields(content) if number == 2]
    enums[name] = {as_text(value[1]): as_int(value.get(2, 0)) for value in values}
    return name


def _map_entry(of: _Field) -> _Message | None:
    message = descriptors().messages.get(of.type_name)
    return message if message is not None and message.is_map_entry else None


def _encoded(of: _Field, value: Any) -> Iterator[bytes]:
    if not value and not (isinstance(value, Mapping) and not of.is_repeated):
        return
    if not of.is_repeated:
        yield _one(of, value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield field(of.number, encode(of.type_name[1:], {"key": key, "value": item}))
    elif of.kind in _LENGTH_DELIMITED:
        for item in value:
            yield _one(of, item)
    else:
        # Numbers are packed.
        yield field(of.number, *[_number(of, item) for item in value])


def _one(of: _Field, value: Any) -> bytes:
    if of.kind == _MESSAGE:
        return field(of.number, encode(of.type_name[1:], value))
    if of.kind in _LENGTH_DELIMITED:
        return field(of.number, value.encode() if isinstance(value, str) else value)
    return varint(of.number << 3 | _FIXED.get(of.kind, (None, 0))[1]) + _number(of, value)


def _number(of: _Field, value: Any) -> bytes:
    if of.kind in _FIXED:
        return _FIXED[of.kind][0].pack(value)
    if of.kind == _ENUM and isinstance(value, str):
        value = descriptors().enums[of.type_name][value]
    return varint(int(value))


def _decoded(of: _Field, raw: Value) -> Iterator[Any]:
    if of.kind == _MESSAGE:
        yield decode(of.type_name[1:], as_bytes(raw))
    elif of.kind == _STRING:
        yield as_text(raw)
    elif of.kind == _BYTES:
        yield bytes(as_bytes(raw))
    elif of.kind in _FIXED:
        for (number,) in _FIXED[of.kind][0].iter_unpack(_whole(of, as_bytes(raw))):
            yield number
    else:
        numbers = [raw] if isinstance(raw, int) else varints(raw, 0, len(raw)).tolist()
        for number in numbers:
            yield bool(number) if of.kind == _BOOL else signed(number)


def _whole(of: _Field, raw: memoryview) -> memoryview:
    if not len(raw) or len(raw) % _FIXED[of.kind][0].size:
        raise InvalidMessage(f"{of.name} has {len(raw)} bytes, which are no whole numbers")
    return raw
