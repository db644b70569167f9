"""Work that nobody waits for, done one piece after the other by a thread of its own."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Piece = TypeVar("Piece")


class Background(Generic[Piece]):
    """`work` must not raise. `most_waiting`: how much of it may wait, in the unit of the pieces' weights."""

    def __init__(self, name: str, work: Callable[[Piece], None], max_queued: int) -> None:
        self._name = name
        self._work = work
        self._max_queued = max_queued
        self._changed = threading.Condition()
        self._pieces: deque[tuple[Piece, int]] = deque()
        self._waiting = 0
        self._thread: threading.Thread | None = None
        self._closing = False

    def offer(self, piece: Piece, weight: int) -> bool:
        """Never waits. False where too much waits already: then the piece is not taken."""
        with self._changed:
            if self._waiting + weight > self._max_queued:
                return False
            self._pieces.append((piece, weight))
            self._waiting += weight
            if self._thread is None:
                # Not before there is something to do: a thread does not survive a fork.
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()
            return True

    def close(self, seconds: float) -> None:
        """Waits until all is done, and no longer than this."""
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
            # Nothing holds on to it while the next is waited for.
            del piece, taken
            with self._changed:
                self._waiting -= weight

    def _next(self) -> tuple[Piece, int] | None:
        """None at the end."""
        with self._changed:
            while not self._pieces:
                if self._closing:
                    self._thread = None
                    return None
                self._changed.wait()
            return self._pieces.popleft()
