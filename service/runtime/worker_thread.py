"""A thread that works through a bounded queue in the background."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Piece = TypeVar("Piece")


class WorkerThread(Generic[Piece]):
    """Does `work`, which must not raise, for one piece after the other. `max_queued`: limit of the queued weights."""

    def __init__(self, name: str, work: Callable[[Piece], None], max_queued: int) -> None:
        self._name = name
        self._work = work
        self._max_queued = max_queued
        self._changed = threading.Condition()
        self._pieces: deque[tuple[Piece, int]] = deque()
        self._queued = 0
        self._thread: threading.Thread | None = None
        self._closing = False

    @property
    def is_idle(self) -> bool:
        """Whether all pieces are done."""
        return not self._queued

    def offer(self, piece: Piece, weight: int) -> bool:
        """Queue a piece, without waiting. False if the queue is full."""
        with self._changed:
            if self._queued + weight > self._max_queued:
                return False
            self._pieces.append((piece, weight))
            self._queued += weight
            if self._thread is None:
                # Not earlier: a thread does not survive a fork.
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()
            return True

    def close(self, seconds: float) -> None:
        """Wait until the queue is empty, for at most this long."""
        with self._changed:
            self._closing = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def _run(self) -> None:
        while (taken := self._next()) is not None:
            piece, weight = taken
            self._work(piece)
            # Do not keep it alive while waiting for the next.
            del piece, taken
            with self._changed:
                self._queued -= weight

    def _next(self) -> tuple[Piece, int] | None:
        """None once closed."""
        with self._changed:
            while not self._pieces:
                if self._closing:
                    self._thread = None
                    return None
                self._changed.wait()
            return self._pieces.popleft()
