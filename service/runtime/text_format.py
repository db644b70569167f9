"""Protobuf's text format, read by a table of the message's fields, without protobuf.

https://protobuf.dev/reference/protobuf/textformat-spec/
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias, TypeVar

from service.runtime.utf8 import NotUtf8, decode

# Of messages whose fields are not known.
MAX_DEPTH = 100
# Of what an error shows of the file.
MAX_SHOWN = 40

_BLANK = re.compile(r"(?:[ \t\r\n\f\v]+|#[^\n]*)*")
_TOKEN = re.compile(
    r"""(?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>0[xX][0-9a-fA-F]+ | (?:[0-9]+\.?[0-9]* | \.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?)
      | (?P<string>"(?:[^"\\\n]|\\[^\n])*" | '(?:[^'\\\n]|\\[^\n])*')
      | (?P<symbol>.)""",
    re.VERBOSE,
)
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))")
_LETTERS = {
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
    b"a": b"\a",
    b"b": b"\b",
    b"f": b"\f",
    b"v": b"\v",
    **{character: character for character in (b"\\", b"'", b'"', b"?")},
}
_BOOLS = {"true": True, "True": True, "t": True, "1": True, "false": False, "False": False, "f": False, "0": False}
_CLOSING = {"{": "}", "<": ">"}
_DECIMAL = re.compile(r"0|[1-9][0-9]*")
# What makes a number none.
_REST = re.compile(r"[\w.]+")
_OCTAL = re.compile(r"0[0-7]+")


Choice = TypeVar("Choice")


class InvalidText(ValueError):
    """The message begins with line and column, names the field and says what was expected."""


@dataclass(frozen=True, slots=True)
class Number:
    """Integers from `minimum` to `maximum`; without them any number."""

    name: str
    minimum: int | None = None
    maximum: int | None = None


@dataclass(frozen=True, slots=True)
class Text:
    name: str = "string"


@dataclass(frozen=True, slots=True)
class Bool:
    name: str = "bool"


@dataclass(frozen=True, slots=True)
class Enum:
    name: str
    numbers: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Unread:
    """A message of any kind, such as google.protobuf.Any: its fields are skipped."""

    name: str


@dataclass(frozen=True, slots=True)
class Message:
    """`oneofs`: groups of fields of which only one may be set."""

    name: str
    fields: Mapping[str, "Kind | Repeated"]
    oneofs: Sequence[tuple[str, ...]] = ()


Kind: TypeAlias = Number | Text | Bool | Enum | Unread | Message


@dataclass(frozen=True, slots=True)
class Repeated:
    kind: Kind


class Read(dict[str, Any]):
    """The fields of a message that are set, by name: a list for a repeated one, a Read for a message. `line`: where the
    message begins."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line


INT32 = Number("int32", -(2**31), 2**31 - 1)
INT64 = Number("int64", -(2**63), 2**63 - 1)
UINT32 = Number("uint32", 0, 2**32 - 1)
DOUBLE = Number("double")
STRING = Text()
BOOL = Bool()


def map_of(key: Kind, value: Kind) -> Repeated:
    """A map is a list of entries with a `key` and a `value`."""
    return Repeated(Message("map entry", {"key": key, "value": value}))


def read(text: bytes, message: Message) -> Read:
    """Raises InvalidText."""
    try:
        reader = _Reader(decode(text))
    except NotUtf8 as error:
        raise InvalidText(f"1:1: {error}") from None
    return reader.message(message, "", None)


class _Reader:
    """`self._kind`, `self._word`: the token that comes next; at the end the kind is empty."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._begin = self._end = 0
        self._kind = self._word = ""
        self._next()

    def message(self, message: Message, path: str, closing: str | None) -> Read:
        """The fields up to `closing`; up to the end of the text where that is None."""
        found = Read(self._line())
        while not self._is_at_end_of(path or message.name, closing):
            begin = self._begin
            name = self._name(path or message.name, message)
            field = message.fields[name]
            place = f"{path}.{name}" if path else name
            self._check_single(message, found, name, begin)
            if isinstance(field, Repeated):
                self._values(field.kind, place, found.setdefault(name, []))
            else:
                self._skip_colon(place, field)
                found[name] = self._value(field, place)
            self._skip_separator()
        return found

    def _name(self, path: str, message: Message) -> str:
        if self._word == "[":
            self._fail(f'"{path}": expected a field of "{message.name}", not an extension')
        if self._kind != "name":
            self._fail(f'"{path}": expected the name of a field, not {self._shown()}')
        if self._word not in message.fields:
            self._fail(
                f'Message type "{message.name}" has no field named "{self._word[:MAX_SHOWN]}"; expected one of '
                + ", ".join(message.fields)
            )
        return self._next()

    def _check_single(self, message: Message, found: Read, name: str, begin: int) -> None:
        if name in found and not isinstance(message.fields[name], Repeated):
            self._fail(f'Non-repeated field "{name}" is specified multiple times', begin)
        for members in message.oneofs:
            if name in members and (other := next((one for one in members if one in found), None)):
                self._fail(f'Field "{name}" is specified along with field "{other}"; expected one of the two', begin)

    def _values(self, kind: Kind, path: str, found: list[Any]) -> None:
        """One value, or a list of them in brackets."""
        self._skip_colon(path, kind)
        if self._word != "[":
            found.append(self._value(kind, path))
            return
        self._next()
        while self._word != "]":
            found.append(self._value(kind, path))
            if self._word not in (",", "]"):
                self._fail(f'"{path}": expected "," or "]", not {self._shown()}')
            if self._word == ",":
                self._next()
        self._next()

    def _value(self, kind: Kind, path: str) -> Any:
        if isinstance(kind, Message):
            return self.message(kind, path, self._opening(path))
        if isinstance(kind, Unread):
            begin = self._line()
            self._skip_message(path, self._opening(path), MAX_DEPTH)
            return Read(begin)
        if isinstance(kind, Text):
            return self._string(path)
        if isinstance(kind, Bool):
            return self._choice(path, "true or false", _BOOLS.get)
        if isinstance(kind, Enum):
            return self._enum(kind, path)
        return self._number(kind, path)

    def _string(self, path: str) -> str:
        """One literal, or several in a row."""
        if self._kind != "string":
            self._fail(f'"{path}": expected a string in quotes, not {self._shown()}')
        begin, parts = self._begin, []
        while self._kind == "string":
            parts.append(self._unescaped(path))
            self._next()
        try:
            return b"".join(parts).decode()
        except UnicodeDecodeError:
            self._fail(f'"{path}": expected UTF-8 in a string', begin)

    def _unescaped(self, path: str) -> bytes:
        def unescape(match: "re.Match[bytes]") -> bytes:
            octal, hexadecimal, short, long, letter = match.groups()
            unescaped = _LETTERS.get(letter)
            if octal or hexadecimal:
                code = int(octal, 8) if octal else int(hexadecimal, 16)
                unescaped = bytes([code]) if code < 256 else None
            elif short or long:
                code = int(short or long, 16)
                unescaped = chr(code).encode() if code < 0x110000 and not 0xD800 <= code < 0xE000 else None
            if unescaped is None:
                self._fail(f'"{path}": {match[0].decode(errors="replace")} is no escape sequence')
            return unescaped

        return _ESCAPE.sub(unescape, self._word[1:-1].encode())

    def _enum(self, kind: Enum, path: str) -> int:
        def find(token: str) -> int | None:
            number = kind.numbers.get(token)
            # An enum of proto3 takes any number.
            return int(token) if number is None and _DECIMAL.fullmatch(token) and len(token) < 10 else number

        return self._choice(path, "one of " + ", ".join(kind.numbers), find)

    def _choice(self, path: str, expected: str, find: Callable[[str], Choice | None]) -> Choice:
        value = find(self._word) if self._kind in ("name", "number") else None
        if value is None:
            self._fail(f'"{path}": expected {expected}, not {self._shown()}')
        self._next()
        return value

    def _number(self, kind: Number, path: str) -> float:
        begin, sign = self._begin, 1
        if self._word == "-":
            sign = -1
            self._next()
        value = self._float() if kind.minimum is None else self._integer()
        if value is None:
            expected = "a number" if kind.minimum is None else "a whole number"
            self._fail(f'"{path}": expected {expected}, not {self._shown()}')
        value *= sign
        if kind.minimum is not None and kind.maximum is not None and not kind.minimum <= value <= kind.maximum:
            self._fail(f'"{path}": expected a whole number from {kind.minimum} to {kind.maximum} ({kind.name})', begin)
        self._next()
        return value

    def _integer(self) -> int | None:
        token = self._word
        # Python itself refuses to read thousands of digits.
        if self._kind != "number" or len(token) > MAX_SHOWN:
            return None
        if token[:2] in ("0x", "0X"):
            return int(token, 16)
        if _OCTAL.fullmatch(token):
            return int(token, 8)
        return int(token) if _DECIMAL.fullmatch(token) else None

    def _float(self) -> float | None:
        token = self._word.lower()
        if self._kind == "name" and token in ("inf", "infinity", "nan"):
            return float(token)
        integer = self._integer()
        if integer is not None:
            return float(integer)
        return float(token.removesuffix("f")) if self._kind == "number" and token[:2] != "0x" else None

    def _skip_message(self, path: str, closing: str, depth: int) -> None:
        """Fields of any name; extensions and Any in brackets."""
        if not depth:
            self._fail(f'"{path}": expected at most {MAX_DEPTH} messages in each other')
        while not self._is_at_end_of(path, closing):
            if self._word == "[":
                self._skip_bracketed_name(path)
            elif self._kind == "name":
                self._next()
            else:
                self._fail(f'"{path}": expected the name of a field, not {self._shown()}')
            has_colon = self._word == ":"
            if has_colon:
                self._next()
            if self._word == "[" and has_colon:
                self._next()
                while self._word != "]":
                    self._skip_value(path, depth)
                    if self._word == ",":
                        self._next()
                self._next()
            elif has_colon or self._word in _CLOSING:
                self._skip_value(path, depth)
            else:
                self._fail(f'"{path}": expected ":" or "{{", not {self._shown()}')
            self._skip_separator()

    def _skip_bracketed_name(self, path: str) -> None:
        while self._word != "]":
            if not self._kind:
                self._fail(f'"{path}": expected "]"')
            self._next()
        self._next()

    def _skip_value(self, path: str, depth: int) -> None:
        if self._word in _CLOSING:
            self._skip_message(path, self._opening(path), depth - 1)
        elif self._kind == "string":
            self._string(path)
        else:
            if self._word == "-":
                self._next()
            if self._kind not in ("name", "number"):
                self._fail(f'"{path}": expected a value, not {self._shown()}')
            self._next()

    def _opening(self, path: str) -> str:
        """Skip what opens a message; returns what closes it."""
        if self._word not in _CLOSING:
            self._fail(f'"{path}": expected "{{", not {self._shown()}')
        return _CLOSING[self._next()]

    def _is_at_end_of(self, path: str, closing: str | None) -> bool:
        if not self._kind:
            if closing is not None:
                self._fail(f'"{path}": expected "{closing}"')
            return True
        if closing is None or self._word != closing:
            return False
        self._next()
        return True

    def _skip_colon(self, path: str, kind: Kind) -> None:
        """Before a message it may be left out."""
        if self._word == ":":
            self._next()
        elif not isinstance(kind, (Message, Unread)):
            self._fail(f'"{path}": expected ":", not {self._shown()}')

    def _skip_separator(self) -> None:
        if self._word in (",", ";"):
            self._next()

    def _next(self) -> str:
        """Go to the next token; returns the one before."""
        before = self._word
        blank = _BLANK.match(self._text, self._end)
        self._begin = blank.end() if blank else self._end
        match = _TOKEN.match(self._text, self._begin)
        if match is None:
            self._kind = self._word = ""
            return before
        self._end = match.end()
        self._kind, self._word = match.lastgroup or "", match[0]
        if self._kind == "number" and (rest := _REST.match(self._text, self._end)):
            self._end = rest.end()
            self._kind, self._word = "symbol", self._text[self._begin : self._end]
        return before

    def _shown(self) -> str:
        if self._word in ("'", '"'):
            return "a string that does not end in its line"
        return f"{self._word[:MAX_SHOWN]!r}" if self._kind else "the end"

    def _line(self) -> int:
        return self._text.count("\n", 0, self._begin) + 1

    def _fail(self, message: str, begin: int | None = None) -> NoReturn:
        """`begin`: where; at the next token where it is None."""
        place = self._begin if begin is None else begin
        line = self._text.count("\n", 0, place) + 1
        column = place - (self._text.rfind("\n", 0, place) + 1) + 1
        raise InvalidText(f"{line}:{column}: {message}")
