"""Child processes that inherit what their parent has, as worker processes do."""

import os
import signal
from collections.abc import Callable


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
