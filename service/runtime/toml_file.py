"""Decode a TOML file of the operator; the error names the place in it."""

import os
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from service.runtime.config_file import InvalidFile
from service.runtime.utf8 import NotUtf8, without_mark

Content = TypeVar("Content")
Table = TypeVar("Table")


def decode(written: bytes, path: "os.PathLike[str]", kind: type[Content], group: str, member: type[Table]) -> Content:
    """Decode TOML. `group`: the table whose entries are tables of the kind `member`. Raises InvalidFile."""
    try:
        tables: Mapping[str, object] = msgspec.toml.decode(without_mark(written))
        members = tables.get(group)
        if isinstance(members, dict):
            # One by one, since msgspec does not say which table of a table is invalid.
            for name, table in members.items():
                _convert(table, member, path, f" - in `{group}.{name}`")
        return _convert(tables, kind, path, "")
    except UnicodeDecodeError as error:
        raise InvalidFile(f"{path}: expected UTF-8; {error.reason} at byte {error.start}") from None
    except (msgspec.DecodeError, NotUtf8) as error:
        raise InvalidFile(f"{path}: {error}") from None


def _convert(value: object, kind: type[Table], path: "os.PathLike[str]", place: str) -> Table:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InvalidFile(f"{path}: {str(error).replace('$.', '')}{place}") from None
