"""A TOML file that the operator writes: checked at the start, read again whenever it changes."""

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
    """The file is not what it should be; the message says which, where, and what was expected."""


class TomlFile(Generic[Content]):
    """`decode` raises InvalidFile. `before` is what counts before anything is read. One that `must_exist` was named by
    a setting; any other may come and go.

    `kept`: where worker processes share the text that counts. One that begins while the file is bad goes by it, as the
    others do.
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
        self._seen: object = None
        self.content = before
        # Why what the file says now does not count.
        self.error = ""

    def read(self) -> bool:
        """Whether it had changed. Where it is bad, what was read before goes on to count, and `error` says why."""
        if (seen := self._fingerprint()) == self._seen:
            return False
        try:
            written = self._written()
            self.content = self._decode(written, self._path)
            self.error = ""
        except InvalidFile as error:
            self.error = str(error)
            if self._seen is None and self._kept is not None and (kept := self._kept.get()) is not None:
                self.content = self._decode(kept, self._path)
        else:
            self._keep(written)
        self._seen = seen
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
            # What was read counts all the same.
            logger.error("%s: a worker process that begins while it is bad cannot know it: %s", self._path, error)

    def _fingerprint(self) -> object:
        try:
            stat = self._path.stat()
        except OSError as error:
            return error.errno
        return stat.st_mtime_ns, stat.st_size, stat.st_ino


def decode(written: bytes, path: "os.PathLike[str]", kind: type[Content], group: str, member: type[Table]) -> Content:
    """`group`: the table whose entries are each a table of the kind `member`. Raises InvalidFile."""
    try:
        tables: Mapping[str, object] = msgspec.toml.decode(without_mark(written))
        members = tables.get(group)
        if isinstance(members, dict):
            # One by one: of a table of tables msgspec does not say in which one the fault is.
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
