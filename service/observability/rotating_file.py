"""A bounded file of lines that several processes write to."""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

# For this user alone.
_MODE = 0o600


class RotatingFile:
    """FILE and FILE.1, together at most `max_bytes`. When a line would make FILE longer than half of that, FILE becomes
    FILE.1 and replaces the one before.

    Any number of processes may write, one thread of each: they take turns by a lock on the file.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._older = older_file(path)
        self._max_bytes = max_bytes // 2
        self._descriptor: int | None = None

    def append(self, line: bytes) -> None:
        """Write the whole line or nothing.

        Raises:
            OSError: the file cannot be written, the disk is full, or the line is longer than the file may be.
        """
        if len(line) > self._max_bytes:
            raise OSError(errno.EFBIG, "the line is longer than the file may be")
        try:
            size = self._lock()
            while size and size + len(line) > self._max_bytes:
                self._path.replace(self._older)
                self.close()
                size = self._lock()
            self._write(size, line)
        finally:
            self._unlock()

    def check(self) -> None:
        """Create the file if it is missing. Raises OSError if it cannot be written."""
        try:
            self._lock()
        finally:
            self._unlock()
            self.close()

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _lock(self) -> int:
        """Lock the file that is at the path now, and return its size."""
        while True:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            held = os.fstat(self._descriptor)
            with suppress(FileNotFoundError):
                if os.path.samestat(held, self._path.stat()):
                    return held.st_size
            # Another process made it FILE.1, or somebody removed it.
            self.close()

    def _unlock(self) -> None:
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _write(self, size: int, line: bytes) -> None:
        assert self._descriptor is not None  # noqa: S101
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            # The process that wrote last was killed in the middle of a line.
            line = b"\n" + line
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            # If even this fails, the next append begins a new line.
            with suppress(OSError):
                os.ftruncate(self._descriptor, size)
            raise


def older_file(path: Path) -> Path:
    """The file that came before the one at `path`."""
    return path.with_name(f"{path.name}.1")
