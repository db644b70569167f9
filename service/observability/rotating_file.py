"""A file of lines that several processes write to, and that is never longer than it may be."""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

# Others on the machine have no business with what is in it.
_MODE = 0o600


class RotatingFile:
    """Two files: where one more line would make the first longer than half of `most_bytes`, it becomes FILE.1, and what
    was FILE.1 is gone. For one thread; any number of processes, who take turns by a lock on the file."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._older = path.with_name(f"{path.name}.1")
        self._max_bytes = max_bytes // 2
        self._descriptor: int | None = None

    def append(self, line: bytes) -> None:
        """The whole line, or nothing of it.

        Raises:
            OSError: the disk is full, or the file cannot be written; or the line is longer than it may be.
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
        """Makes the file where there is none. Raises OSError where it cannot be written."""
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
        """The file that lies at the path now is this process's alone. Its size."""
        while True:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            held = os.fstat(self._descriptor)
            with suppress(FileNotFoundError):
                if os.path.samestat(held, self._path.stat()):
                    return held.st_size
            # Another process has made it FILE.1, or somebody has taken it away.
            self.close()

    def _unlock(self) -> None:
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _write(self, size: int, line: bytes) -> None:
        assert self._descriptor is not None  # noqa: S101
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            # Who wrote last was killed within a line.
            line = b"\n" + line
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            # Where even this fails, the next line begins anew.
            with suppress(OSError):
                os.ftruncate(self._descriptor, size)
            raise
