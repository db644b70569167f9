"""Child processes that inherit what their parent has, as worker processes do; and threads that often take turns."""

import mmap
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial


class Forked:
    """Runs `work` in a child process. `work` gets a function that lets the parent go on."""

    def __init__(self, work: Callable[[Callable[[], None]], object]) -> None:
        self._reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                work(lambda: (os.write(writer, b"."), None)[1])
                code = 0
            finally:
                os._exit(code)
        os.close(writer)
        self._status: int | None = None

    def wait_until_it_says_so(self) -> None:
        assert os.read(self._reader, 1) == b"."

    def join(self) -> int:
        """Its exit code, or the signal that killed it as a negative number."""
        if self._status is None:
            os.close(self._reader)
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    def kill(self) -> None:
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.join()


def join_at_once(count: int, work: Callable[[int], object]) -> list[int]:
    """Runs `work` with each number below `count` in a process of its own, all at the same time; their exit codes."""
    ready = mmap.mmap(-1, count)

    def begin(number: int, _go: object) -> None:
        ready[number] = 1
        while sum(ready[:]) < count:
            pass
        work(number)

    children = [Forked(partial(begin, number)) for number in range(count)]
    return [child.join() for child in children]


def in_threads(count: int, work: Callable[[], object]) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
