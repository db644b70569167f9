"""A pool of threads that models share: none can take all of them."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from queue import SimpleQueue


class Job:
    """`work` raises nothing."""

    __slots__ = ("line", "work")

    def __init__(self, line: "_Line", work: Callable[[], None]) -> None:
        self.line = line
        self.work = work


class _Line:
    """One model's jobs. `waiting`: those that have not begun, in their order. `tickets`: for how many of them a thread
    is wanted."""

    __slots__ = ("name", "running", "tickets", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.waiting: OrderedDict[Job, None] = OrderedDict()
        self.running = 0
        self.tickets = 0


class Pool:
    def __init__(self, name: str, threads: int, most_of_one: int) -> None:
        """`most_of_one`: how many threads one model's jobs may hold."""
        self._name = name
        self._most_threads = threads
        self._most_of_one = most_of_one
        self._lock = threading.Lock()
        self._lines: dict[str, _Line] = {}
        # Whoever takes a line's ticket takes its first job. None: it is time to end.
        self._tickets: SimpleQueue[_Line | None] = SimpleQueue()
        self._threads = 0
        # Jobs that wait or run.
        self.size = 0

    def size_of(self, name: str) -> int:
        line = self._lines.get(name)
        return line.running + len(line.waiting) if line else 0

    def submit(self, name: str, work: Callable[[], None]) -> Job:
        with self._lock:
            line = self._lines.get(name)
            if line is None:
                line = self._lines[name] = _Line(name)
            job = Job(line, work)
            line.waiting[job] = None
            self.size += 1
            self._want_thread(line)
            if self._threads < min(self.size, self._most_threads):
                self._threads += 1
                # Nobody waits for it at the end: what it runs may hang.
                threading.Thread(target=self._run, name=f"{self._name}-{self._threads}", daemon=True).start()
        return job

    def drop(self, job: Job) -> bool:
        """It does not begin any more. False: it has begun, and goes on."""
        with self._lock:
            if job not in job.line.waiting:
                return False
            del job.line.waiting[job]
            self.size -= 1
            return True

    def close(self) -> None:
        with self._lock:
            for line in self._lines.values():
                line.waiting.clear()
            for _ in range(self._threads):
                self._tickets.put(None)

    def _run(self) -> None:
        while (line := self._tickets.get()) is not None:
            self._run_first(line)
            # Else what it refers to would stay until the next one comes.
            del line

    def _run_first(self, line: _Line) -> None:
        with self._lock:
            line.tickets -= 1
            line.running += 1
            # Else it was dropped.
            job = line.waiting.popitem(last=False)[0] if line.waiting else None
        if job is not None:
            job.work()
        with self._lock:
            line.running -= 1
            if job is not None:
                self.size -= 1
            self._want_thread(line)
            if not (line.waiting or line.running or line.tickets):
                del self._lines[line.name]

    def _want_thread(self, line: _Line) -> None:
        if line.tickets < len(line.waiting) and line.running + line.tickets < self._most_of_one:
            line.tickets += 1
            self._tickets.put(line)
