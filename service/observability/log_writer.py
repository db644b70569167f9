"""Writes lines of the log so that nothing waits for it: not for a full disk, and not for a reader that has stopped."""

import os
from collections.abc import Callable
from select import PIPE_BUF

from service.runtime.worker_thread import Background

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
        self._background = Background("log", self._write_pieces, most_waiting_bytes)
        # A part of a line has been written, and not its end.
        self._is_torn = False
        self.close = self._background.close

    def write(self, lines: bytes) -> None:
        """Whole lines, each with its end. Never waits."""
        if not self._background.offer(lines, len(lines)):
            self._dropped(lines.count(b"\n"))

    def _write_pieces(self, lines: bytes) -> None:
        for piece in _pieces(lines):
            self._put(piece)

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
