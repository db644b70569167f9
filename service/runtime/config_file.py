"""A file of the operator: checked at the start, and read again when it changes."""

import logging
import time
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Generic, TypeVar

from service.runtime.shared_memory import MemoryFull
from service.runtime.shared_values import Value

Content = TypeVar("Content")

logger = logging.getLogger(__name__)


class InvalidFile(ValueError):
    """The file is invalid; the message says which, where, and what was expected."""


class _NotYet(InvalidFile):
    """The content is valid, and may be accepted later."""


class ConfigFile(Generic[Content]):
    """The last valid content of a file.

    `decode` raises InvalidFile. `before`: content until the file is read. `must_exist`: a setting names the file; any
    other may come and go. `kept`: where worker processes share the last valid text, so that one that starts while the
    file is invalid has the same content as the others. `accept` raises InvalidFile for a changed content that cannot be
    in force yet; it is asked again at each read. `pause_seconds`: between two reads; infinite: the first worker process
    reads the file for all.
    """

    def __init__(
        self,
        path: Path,
        decode: Callable[[bytes, Path], Content],
        before: Content,
        *,
        must_exist: bool = False,
        kept: Value | None = None,
        accept: Callable[[Content], None] = lambda _content: None,
        pause_seconds: float = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._decode = decode
        self._must_exist = must_exist
        self._kept = kept
        self._accept = accept
        self._pause_seconds = pause_seconds
        self._clock = clock
        self._next_read = -inf
        self._last: object = None
        self.content = before
        # The text of the content; None until there is one.
        self.written: bytes | None = None
        # Why the file is invalid.
        self.error = ""

    def read(self) -> bool:
        """Read the file if it has changed; whether it had. If it is invalid, `content` stays, and `error` says why."""
        if (now := self._clock()) < self._next_read:
            return False
        self._next_read = now + self._pause_seconds
        if (fingerprint := self._fingerprint()) == self._last:
            return False
        before = self.written if self._kept is None else self._kept.get()
        try:
            written = self._written() if before is None or self._pause_seconds < inf else before
            content = self._decode(written, self._path)
            if before not in (None, written):
                self._check_acceptable(content)
        except InvalidFile as error:
            is_known = isinstance(error, _NotYet) and self.error == str(error)
            self.error = str(error)
            if self.written is None and before is not None:
                self.content, self.written = self._decode(before, self._path), before
            if isinstance(error, _NotYet):
                return not is_known
        else:
            self.content, self.written, self.error = content, written, ""
            self._keep(written)
        self._last = fingerprint
        return True

    def check(self) -> Content:
        """The content as it is now. Raises InvalidFile."""
        return self._decode(self._written(), self._path)

    def _check_acceptable(self, content: Content) -> None:
        try:
            self._accept(content)
        except InvalidFile as error:
            raise _NotYet(str(error)) from None

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
