"""The process that watches over the workers: gunicorn's arbiter, and what it needs to know of them without any file."""

import os
import signal
import time
from dataclasses import replace
from math import inf
from typing import Any

from gunicorn.arbiter import Arbiter

from service.runtime.deaths import Deaths, Ending
from service.runtime.shared_memory import SharedMemory, nameless_file

# A crash report tells of at most 100 threads.
MAX_CRASH_BYTES = 256 * 1024
POLL_SECONDS = 0.05


class Heartbeat:
    """A worker's sign of life in the shared memory, in place of the times of a temporary file; gunicorn calls it `tmp`.
    Its file has no name, and takes what a worker that crashes has to say."""

    def __init__(self, memory: SharedMemory, slot: int) -> None:
        self._memory = memory
        self._slot = slot
        self._file = nameless_file()
        self._maker = os.getpid()
        self.crash = ""
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
        if os.getpid() == self._maker:
            self.crash = os.pread(self._file, MAX_CRASH_BYTES, 0).decode(errors="replace")
        os.close(self._file)
        self._file = -1


class ServiceArbiter(Arbiter):  # type: ignore[misc]  # gunicorn has no types
    """Tells `deaths` how each worker ended."""

    def __init__(self, app: object, memory: SharedMemory) -> None:
        self._memory = memory
        self._deaths = Deaths(memory)
        self._is_stopping = False
        super().__init__(app)

    def reap_workers(self) -> None:
        # gunicorn learns how a worker ended, and tells nobody; who asks without waiting for it leaves it to be told.
        for pid, worker in self.WORKERS.items():
            worker.ending = _ending(pid)
        super().reap_workers()

    def signal(self, sig: int, frame: Any) -> None:
        self._is_stopping |= sig in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
        super().signal(sig, frame)

    def manage_workers(self) -> None:
        self._deaths.poll()
        if len(self.WORKERS) > self.num_workers:
            self._wait_for_successors()
        super().manage_workers()

    def _wait_for_successors(self) -> None:
        """After a reload the old workers take connections until the new ones do."""
        staying = sorted(self.WORKERS.values(), key=lambda worker: worker.age)[-self.num_workers :]
        latest = time.monotonic() + self.timeout
        while not all(self._memory.listens(worker.slot) for worker in staying):
            if self._is_stopping or time.monotonic() >= latest:
                break
            time.sleep(POLL_SECONDS)

    def worker_ended(self, worker: Any) -> None:
        """gunicorn has noticed it. Its slot is free from now on."""
        ending = replace(worker.ending, crash=worker.tmp.crash, is_aborted=worker.aborted)
        self._deaths.worker_ended(worker.slot, ending)
        self._memory.free_slot(worker.slot)


def _ending(pid: int) -> Ending:
    """Of a worker that has ended; of one that lives, or where the system does not tell, nothing."""
    if not hasattr(os, "waitid"):
        return Ending()
    try:
        told = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return Ending()
    if told is None:
        return Ending()
    return Ending(code=told.si_status) if told.si_code == os.CLD_EXITED else Ending(signal=told.si_status)
