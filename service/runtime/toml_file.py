"""A TOML file of the operator: checked at the start, and read again when it changes."""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from service.runtime.shared_memory import MemoryFull
from service.runtime.shared_values import Value
from service.runtime.utf8 import NotUtf8, without_mark

Content = TypeVar("Content")
Table = TypeVar("Table")

logger = logging.getLogger(__name__)


class InvalidFile(ValueError):
    """The file is invalid; the message says which, where, and what was expected."""


class TomlFile(Generic[Content]):
    """The last valid content of a file.

    `decode` raises InvalidFile. `before`: content until the file is read. `must_exist`: a setting names the file; any
    other may come and go. `kept`: where worker processes share the last valid text, so that one that starts while the
    file is invalid has the same content as the others.
    """

    def __init__(
        self,
        path: Path,
        decode: Callable[[bytes, Path], Content],
        before: Content,
        *,
        must_exist: bool = False,
        kept: Value | None = None,
    ) -> None:
        self._path = path
        self._decode = decode
        self._must_exist = must_exist
        self._kept = kept
        self._last: object = None
        self.content = before
        # Why the file is invalid.
        self.error = ""

    def read(self) -> bool:
        """Read the file if it has changed; whether it had. If it is invalid, `content` stays, and `error` says why."""
        if (fingerprint := self._fingerprint()) == self._last:
            return False
        try:
            written = self._written()
            self.content = self._decode(written, self._path)
            self.error = ""
        except InvalidFile as error:
            self.error = str(error)
            if self._last is None and self._kept is not None and (kept := self._kept.get()) is not None:
                self.content = self._decode(kept, self._path)
        else:
            self._keep(written)
        self._last = fingerprint
        return True

    def check(self) -> None:
        """Raises InvalidFile."""
        self._decode(self._written(), self._path)

    def _written(self) -> bytes:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            if self._must_exist:
                raise InvalidFile(f"{self._path}: there is no such file") from None
            return b""
        except OSError as error:
            raise InvalidFile(f"{self._path} cannot be read: {error.strerror}") from None

    def _keep(self, written: bytes) -> None:
        if self._kept is None:
            return
        try:
            self._kept.put(written)
        except MemoryFull as error:
            logger.error("%s: a worker process that starts while it is invalid will not know it: %s", self._path, error)

    def _fingerprint(self) -> object:
        try:
            stat = self._path.stat()
        except OSError as error:
            return error.errno
        return stat.st_mtime_ns, stat.st_size, stat.st_ino


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
