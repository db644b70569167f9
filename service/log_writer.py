"""Writes lines of the log so that nothing waits for it: not for a full disk, and not for a reader that has stopped."""

import os
import threading
from collections import deque
from collections.abc import Callable
from select import PIPE_BUF

STANDARD_ERROR = 2

# What may wait to be written. More is dropped: some thousand lines, a second or two of the busiest worker.
MOST_WAITING_BYTES = 1024 * 1024


class LogWriter:
    """`dropped` is told how many lines could not be written, or would have had to wait for too long."""

    def __init__(
        self, descriptor: int, dropped: Callable[[int], None], most_waiting_bytes: int = MOST_WAITING_BYTES
    ) -> None:
        self._descriptor = descriptor
        self._dropped = dropped
        self._most_waiting_bytes = most_waiting_bytes
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._thread: threading.Thread | None = None
        self._closing = False
        # A part of a line has been written, and not its end.
        self._is_torn = False

    def write(self, lines: bytes) -> None:
        """Whole lines, each with its end. Never waits."""
        with self._changed:
            if self._waiting_bytes + len(lines) <= self._most_waiting_bytes:
                self._waiting.append(lines)
                self._waiting_bytes += len(lines)
                if self._thread is None:
                    # Not before there is something to write: a thread does not survive a fork.
                    self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                    self._thread.start()
                self._changed.notify()
                return
        self._dropped(lines.count(b"\n"))

    def close(self, seconds: float) -> None:
        """Waits until all is written, and no longer than this."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._closing:
                        self._thread = None
                        return
                    self._changed.wait()
                lines = self._waiting[0]
            for piece in _pieces(lines):
                self._put(piece)
            with self._changed:
                self._waiting.popleft()
                self._waiting_bytes -= len(lines)

    def _put(self, piece: bytes) -> None:
        rest = b"\n" + piece if self._is_torn else piece
        try:
            while rest:
                written = os.write(self._descriptor, rest)
                self._is_torn = True
                rest = rest[written:]
            self._is_torn = False
        except OSError:
            self._dropped(piece.count(b"\n"))


def _pieces(lines: bytes) -> list[bytes]:
    """So short that other processes' lines cannot get into the middle of one, where the log is a pipe. A longer line is
    a piece of its own."""
    pieces = []
    start = 0
    while start < len(lines):
        end = len(lines)
        if end - start > PIPE_BUF:
            end = lines.rfind(b"\n", start, start + PIPE_BUF) + 1 or lines.index(b"\n", start) + 1
        pieces.append(lines[start:end])
        start = end
    return pieces
