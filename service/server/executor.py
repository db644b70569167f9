"""Answers that threads give, while the event loop watches the time and the client."""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from service.errors import response_to_error
from service.http import Response, error_response
from service.inference.context import RequestContext
from service.inference.deadline import DeadlineExceeded, Deadlines, Stage
from service.metrics.definitions import Metrics
from service.server.admission import Rejections
from service.settings import Settings

# A pool of threads that models share: none can take all of them.


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


class ThreadPool:
    def __init__(self, name: str, threads: int, max_per_model: int) -> None:
        """`most_of_one`: how many threads one model's jobs may hold."""
        self._name = name
        self._max_threads = threads
        self._max_per_model = max_per_model
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
            if self._threads < min(self.size, self._max_threads):
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
        if line.tickets < len(line.waiting) and line.running + line.tickets < self._max_per_model:
            line.tickets += 1
            self._tickets.put(line)


# Of the threads, and of the places in the queue, one in so many is kept from a model that would take them all.
KEPT_FOR_OTHERS = 8
# Health and metrics answer however long predictions wait.
OPERATORS_THREADS = 2


class Executor:
    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        deadlines: Deadlines,
        refusals: Rejections,
        is_starting: Callable[[], bool],
    ) -> None:
        """`is_starting`: whether requests wait for the models that are loaded first of all, however long that takes."""
        self._settings = settings
        self._metrics = metrics
        self._waiting = metrics.thread_queue_length.labels()
        self._deadlines = deadlines
        self._refusals = refusals
        self._is_starting = is_starting
        self._pool = ThreadPool("request", settings.threads, _share_of_one(settings.threads))
        self._operators_pool = ThreadPool("operator", OPERATORS_THREADS, OPERATORS_THREADS)

    def answer(
        self, context: RequestContext, model: str, function: Callable[..., Response], *arguments: Any
    ) -> "Response | asyncio.Future[Response]":
        """What the function gives, unless too many wait already, in all or for this model, or it has to wait too
        long."""
        if full := self._full(model):
            return self._refusals.answer(context, full)
        max_wait_seconds = self._settings.max_queue_ms / 1000
        answer = self._answer(self._pool, max_wait_seconds, context, model, function, *arguments)
        self._note_waiting()
        answer.add_done_callback(self._note_waiting)
        return answer

    def _note_waiting(self, _answer: "asyncio.Future[Response] | None" = None) -> None:
        self._waiting.set(max(0, self._pool.size - self._settings.threads))

    def operators_answer(
        self, context: RequestContext, function: Callable[..., Response], *arguments: Any
    ) -> "asyncio.Future[Response]":
        return self._answer(self._operators_pool, None, context, "", function, *arguments)

    def close(self) -> None:
        for pool in (self._pool, self._operators_pool):
            pool.close()

    def _full(self, model: str) -> str:
        """Why no more may wait; empty where one may."""
        threads, places = self._settings.threads, self._settings.max_queue_size
        waiting = self._pool.size - threads
        if waiting >= places:
            return f"{waiting} requests wait already; at most {places} may (SERVING_MAX_QUEUE_SIZE)"
        waiting, most = self._pool.size_of(model) - _share_of_one(threads), _share_of_one(places)
        if waiting >= most:
            return (
                f"{waiting} requests for this model wait already; of the {places} that may (SERVING_MAX_QUEUE_SIZE) "
                f"one model's are at most {most}"
            )
        return ""

    def _answer(
        self,
        pool: ThreadPool,
        max_wait_seconds: float | None,
        context: RequestContext,
        line: str,
        function: Callable[..., Response],
        *arguments: Any,
    ) -> "asyncio.Future[Response]":
        """`longest_wait`: for a free thread, in seconds."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Response] = loop.create_future()
        if context.deadline is None:
            context.deadline = self._deadlines.default(context.arrived)
        deadline = context.deadline
        timer: asyncio.TimerHandle | None

        def work() -> None:
            deadline.stage = Stage.READING
            context.begin()
            try:
                ended = function(*arguments)
            # A bug; whoever waits must hear of it.
            except Exception as error:
                what = function.__qualname__
                ended = response_to_error(error, "running", what, context.request_id)
            # Else the service was stopped meanwhile, and nobody waits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_set, answer, ended)

        def expire() -> None:
            # Else the answer is on its way.
            if deadline.claim():
                deadline.on_expired()
                context.record_expired(self._metrics)
                answer.set_result(error_response(DeadlineExceeded.status, deadline.sentence))
                give_up()

        def wait_no_longer() -> None:
            nonlocal timer
            if not self._is_starting() and pool.drop(job) and deadline.claim():
                most = f"{self._settings.max_queue_ms} ms (SERVING_MAX_QUEUE_MS)"
                self._refusals.settle(answer, context, f"no thread was free for it within {most}")
            else:
                timer = expire_at_deadline()

        def expire_at_deadline() -> asyncio.TimerHandle | None:
            seconds = deadline.seconds_left()
            return None if seconds is None else loop.call_later(seconds, expire)

        def settled(_: "asyncio.Future[Response]") -> None:
            if timer is not None:
                timer.cancel()
            if answer.cancelled():
                if deadline.claim():
                    self._metrics.rejected.labels("client_left").inc()
                give_up()

        def give_up() -> None:
            deadline.end()
            pool.drop(job)

        job = pool.submit(line, work)
        left = deadline.seconds_left()
        if max_wait_seconds is None or (left is not None and left < max_wait_seconds):
            timer = expire_at_deadline()
        else:
            timer = loop.call_later(max_wait_seconds, wait_no_longer)
        answer.add_done_callback(settled)
        return answer


def _set(answer: "asyncio.Future[Response]", ended: Response) -> None:
    if not answer.done():
        answer.set_result(ended)


def _share_of_one(places: int) -> int:
    return places - places // KEPT_FOR_OTHERS
