"""Memory for decoding pictures: bounded for all requests together, given out in their order."""

import threading
from collections import deque

from service.inference.deadline import Deadline, Stage


class PictureMemory:
    """What the pictures that are being decoded may hold at one time, in bytes. A picture that alone needs more is
    decoded while no other is."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._taken = 0
        self._waiting: deque[_Turn] = deque()

    def share(self, deadline: Deadline | None) -> "Share":
        """A share for the pictures of one request, one after the other."""
        return Share(self, deadline)

    def take(self, count: int, deadline: Deadline | None) -> None:
        """Wait until this many bytes are free, after all that wait already. For threads.

        Raises:
            DeadlineExceeded: nobody waits for the request any more; nothing is taken.
        """
        with self._lock:
            if not self._waiting and self._fits(count):
                self._taken += count
                return
            turn = _Turn(count)
            self._waiting.append(turn)
        if deadline is not None:
            deadline.stage = Stage.PICTURES
            deadline.on_cancel(turn.wake.set)
        turn.wake.wait()
        if deadline is not None:
            deadline.on_cancel(None)
            deadline.stage = Stage.READING
        with self._lock:
            if turn.has_come:
                return
            self._waiting.remove(turn)
            # Those behind it may need less.
            self._wake()
        if deadline is not None:
            deadline.check()

    def give_back(self, count: int) -> None:
        with self._lock:
            self._taken -= count
            self._wake()

    def _wake(self) -> None:
        while self._waiting and self._fits(self._waiting[0].count):
            turn = self._waiting.popleft()
            self._taken += turn.count
            turn.has_come = True
            turn.wake.set()

    def _fits(self, count: int) -> bool:
        return not self._taken or self._taken + count <= self._max_bytes


class Share:
    """What one request has taken of the memory for pictures."""

    __slots__ = ("_count", "_deadline", "_memory")

    def __init__(self, memory: PictureMemory, deadline: Deadline | None) -> None:
        self._memory = memory
        self._deadline = deadline
        self._count = 0

    def take(self, count: int) -> None:
        """This many bytes, in the place of what it had. Raises DeadlineExceeded."""
        self.give_back()
        self._memory.take(count, self._deadline)
        self._count = count

    def give_back(self) -> None:
        if self._count:
            self._memory.give_back(self._count)
            self._count = 0


class _Turn:
    __slots__ = ("count", "has_come", "wake")

    def __init__(self, count: int) -> None:
        self.count = count
        self.has_come = False
        self.wake = threading.Event()
