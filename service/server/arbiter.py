"""The arbiter: gunicorn's process that watches over the workers, without temporary files."""

import os
import signal
import time
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any

from gunicorn.arbiter import Arbiter

from service.runtime.deaths import Deaths, Ending
from service.runtime.shared_memory import SharedMemory, nameless_file

if TYPE_CHECKING:
    from service.stores.fetcher import FetchingProcess

# A crash report lists at most 100 threads.
MAX_CRASH_BYTES = 256 * 1024
POLL_SECONDS = 0.05


class Heartbeat:
    """A worker's heartbeat in shared memory, in place of gunicorn's temporary file; gunicorn calls it `tmp`. Its
    nameless file takes the crash report of the worker."""

    def __init__(self, memory: SharedMemory, slot: int) -> None:
        self._memory = memory
        self._slot = slot
        self._file = nameless_file()
        self._maker = os.getpid()
        self.crash = ""
        # Before its first beat, a worker may take any time.
        memory.beat(slot, inf)

    def notify(self) -> None:
        self._memory.beat(self._slot, time.monotonic())

    def last_update(self) -> float:
        return self._memory.last_beat(self._slot)

    def fileno(self) -> int:
        return self._file

    def close(self) -> None:
        """The first process calls this once the worker has ended; other workers when they begin."""
        if self._file < 0:
            return
        if os.getpid() == self._maker:
            self.crash = os.pread(self._file, MAX_CRASH_BYTES, 0).decode(errors="replace")
        os.close(self._file)
        self._file = -1


class ServiceArbiter(Arbiter):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's arbiter, which also records how each worker ended."""

    def __init__(self, app: object, memory: SharedMemory, fetching: "FetchingProcess | None" = None) -> None:
        """`fetching`: the process to keep beside the workers, if there is to be one."""
        self._memory = memory
        self._fetching = fetching
        self._deaths = Deaths(memory)
        self._is_stopping = False
        super().__init__(app)

    def reap_workers(self) -> None:
        if self._fetching is not None:
            self._fetching.reap()
        # gunicorn keeps to itself how a worker ended. Reading it with WNOWAIT leaves it to gunicorn as well.
        for pid, worker in self.WORKERS.items():
            worker.ending = _ending(pid)
        super().reap_workers()

    def signal(self, sig: int, frame: Any) -> None:
        self._is_stopping |= sig in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
        super().signal(sig, frame)

    def manage_workers(self) -> None:
        self._deaths.poll()
        if self._fetching is not None:
            self._fetching.keep()
        if len(self.WORKERS) > self.num_workers:
            self._wait_for_successors()
        super().manage_workers()

    def stop(self, graceful: bool = True) -> None:
        if self._fetching is not None:
            self._fetching.stop()
        super().stop(graceful)

    def _wait_for_successors(self) -> None:
        """After a reload, keep the old workers until the new ones listen."""
        staying = sorted(self.WORKERS.values(), key=lambda worker: worker.age)[-self.num_workers :]
        latest = time.monotonic() + self.timeout
        while not all(self._memory.listens(worker.slot) for worker in staying):
            if self._is_stopping or time.monotonic() >= latest:
                break
            time.sleep(POLL_SECONDS)

    def worker_ended(self, worker: Any) -> None:
        """gunicorn has noticed that a worker ended. Its slot is free from now on."""
        ending = replace(worker.ending, crash=worker.tmp.crash, is_aborted=worker.aborted)
        self._deaths.worker_ended(worker.slot, ending)
        self._memory.free_slot(worker.slot)


def _ending(pid: int) -> Ending:
    """How a worker ended; empty for one that lives, or where the system does not tell."""
    if not hasattr(os, "waitid"):
        return Ending()
    try:
        status = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return Ending()
    if status is None:
        return Ending()
    if status.si_code == os.CLD_EXITED:
        return Ending(code=status.si_status)
    return Ending(signal=status.si_status)
