"""The process that watches over the workers: gunicorn's arbiter, and what it needs to know of them without any file."""

import os
import time
from math import inf
from typing import Any

from gunicorn.arbiter import Arbiter

from service.shared.memory import SharedMemory, nameless_file

class Heartbeat:
    """A worker's sign of life in the shared memory, in place of the times of a temporary file; gunicorn calls it `tmp`.
    Its file has no name, and nothing in it."""

    def __init__(self, memory: SharedMemory, slot: int) -> None:
        self._memory = memory
        self._slot = slot
        self._file = nameless_file()
        # Until its first beat a worker takes as long as it takes.
        memory.beat(slot, inf)

    def notify(self) -> None:
        self._memory.beat(self._slot, time.monotonic())

    def last_update(self) -> float:
        return self._memory.last_beat(self._slot)

    def fileno(self) -> int:
        return self._file

    def close(self) -> None:
        """By the first process once the worker has ended; by the other workers when they begin."""
        if self._file < 0:
            return
        os.close(self._file)
        self._file = -1


class ServiceArbiter(Arbiter):  # type: ignore[misc]  # gunicorn has no types
    """Frees the slots of workers that have ended."""

    def __init__(self, app: object, memory: SharedMemory) -> None:
        self._memory = memory
        super().__init__(app)

    def worker_ended(self, worker: Any) -> None:
        """gunicorn has noticed it. Its slot is free from now on."""
        self._memory.free_slot(worker.slot)
