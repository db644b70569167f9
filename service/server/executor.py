"""The executor: threads for what the event loop does not do itself."""

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

# One in so many threads, and places in the queue, is kept from a model that would take them all.
KEPT_FOR_OTHERS = 8
# Metrics and pages respond however long predictions wait.
OPERATIONS_THREADS = 2


class Executor:
    """Makes responses in threads, while the event loop watches the clock and the clients."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        deadlines: Deadlines,
        rejections: Rejections,
        is_starting: Callable[[], bool],
    ) -> None:
        """`is_starting`: whether the first models are being loaded: requests wait for them, however long it takes."""
        self._settings = settings
        self._metrics = metrics
        self._waiting = metrics.thread_queue_length.labels()
        self._deadlines = deadlines
        self._rejections = rejections
        self._is_starting = is_starting
        self._pool = ThreadPool("request", settings.threads, _share_of_one(settings.threads))
        self._operations_pool = ThreadPool("operations", OPERATIONS_THREADS, OPERATIONS_THREADS)

    def respond(
        self, context: RequestContext, model: str, function: Callable[..., Response], *arguments: Any
    ) -> "Response | asyncio.Future[Response]":
        """A future of the function's response; 429 where too many requests wait already, in all or for this model, or
        this one has waited too long."""
        if full := self._full(model):
            return self._rejections.queue_full(context, full)
        max_wait_seconds = self._settings.max_queue_ms / 1000
        response = self._submit(self._pool, max_wait_seconds, context, model, function, *arguments)
        self._note_waiting()
        response.add_done_callback(self._note_waiting)
        return response

    def _note_waiting(self, _response: "asyncio.Future[Response] | None" = None) -> None:
        self._waiting.set(max(0, self._pool.size - self._settings.threads))

    def respond_apart(
        self, context: RequestContext, function: Callable[..., Response], *arguments: Any
    ) -> "asyncio.Future[Response]":
        """The same in threads of their own, which no prediction takes."""
        return self._submit(self._operations_pool, None, context, "", function, *arguments)

    def close(self) -> None:
        for pool in (self._pool, self._operations_pool):
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

    def _submit(
        self,
        pool: "ThreadPool",
        max_wait_seconds: float | None,
        context: RequestContext,
        model: str,
        function: Callable[..., Response],
        *arguments: Any,
    ) -> "asyncio.Future[Response]":
        """`max_wait_seconds`: for a free thread; None: as long as it takes."""
        loop = asyncio.get_running_loop()
        response: asyncio.Future[Response] = loop.create_future()
        if context.deadline is None:
            context.deadline = self._deadlines.default(context.arrived)
        deadline = context.deadline
        timer: asyncio.TimerHandle | None

        def work() -> None:
            deadline.stage = Stage.READING
            context.begin()
            try:
                ended = function(*arguments)
            # A bug. The client gets an error all the same.
            except Exception as error:
                what = function.__qualname__
                ended = response_to_error(error, "running", what, context.request_id)
            # Unless the service was stopped meanwhile.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_set, response, ended)

        def expire() -> None:
            # Unless the response is on its way.
            if deadline.claim():
                deadline.on_expired()
                context.record_expired(self._metrics)
                response.set_result(error_response(DeadlineExceeded.status, deadline.message))
                give_up()

        def wait_no_longer() -> None:
            nonlocal timer
            if not self._is_starting() and pool.drop(job) and deadline.claim():
                most = f"{self._settings.max_queue_ms} ms (SERVING_MAX_QUEUE_MS)"
                self._rejections.settle_queue_full(response, context, f"no thread was free for it within {most}")
            else:
                timer = expire_at_deadline()

        def expire_at_deadline() -> asyncio.TimerHandle | None:
            seconds = deadline.seconds_left()
            return None if seconds is None else loop.call_later(seconds, expire)

        def settled(_: "asyncio.Future[Response]") -> None:
            if timer is not None:
                timer.cancel()
            if response.cancelled():
                if deadline.claim():
                    self._metrics.rejected.labels("client_left").inc()
                give_up()

        def give_up() -> None:
            deadline.cancel()
            pool.drop(job)

        job = pool.submit(model, work)
        left = deadline.seconds_left()
        if max_wait_seconds is None or (left is not None and left < max_wait_seconds):
            timer = expire_at_deadline()
        else:
            timer = loop.call_later(max_wait_seconds, wait_no_longer)
        response.add_done_callback(settled)
        return response


def _set(response: "asyncio.Future[Response]", ended: Response) -> None:
    if not response.done():
        response.set_result(ended)


def _share_of_one(places: int) -> int:
    return places - places // KEPT_FOR_OTHERS


class Job:
    """Work that waits for a thread, or has one. It raises nothing."""

    __slots__ = ("jobs", "work")

    def __init__(self, jobs: "_ModelJobs", work: Callable[[], None]) -> None:
        self.jobs = jobs
        self.work = work


class _ModelJobs:
    """The jobs of one model. `waiting`: those that have not begun, in their order. `tickets`: how many of them threads
    have been asked for."""

    __slots__ = ("name", "running", "tickets", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.waiting: OrderedDict[Job, None] = OrderedDict()
        self.running = 0
        self.tickets = 0


class ThreadPool:
    """Threads that models share; no model can take all of them."""

    def __init__(self, name: str, threads: int, max_per_model: int) -> None:
        """`max_per_model`: how many threads the jobs of one model may hold."""
        self._name = name
        self._max_threads = threads
        self._max_per_model = max_per_model
        self._lock = threading.Lock()
        self._models: dict[str, _ModelJobs] = {}
        # A thread that takes a model's ticket takes its first job. None ends the thread.
        self._tickets: SimpleQueue[_ModelJobs | None] = SimpleQueue()
        self._threads = 0
        # Jobs that wait or run.
        self.size = 0

    def size_of(self, name: str) -> int:
        jobs = self._models.get(name)
        return jobs.running + len(jobs.waiting) if jobs else 0

    def submit(self, name: str, work: Callable[[], None]) -> Job:
        with self._lock:
            jobs = self._models.get(name)
            if jobs is None:
                jobs = self._models[name] = _ModelJobs(name)
            job = Job(jobs, work)
            jobs.waiting[job] = None
            self.size += 1
            self._want_thread(jobs)
            if self._threads < min(self.size, self._max_threads):
                self._threads += 1
                # A daemon: what it runs may hang, and must not keep the process.
                threading.Thread(target=self._run, name=f"{self._name}-{self._threads}", daemon=True).start()
        return job

    def drop(self, job: Job) -> bool:
        """Remove a job that has not begun. False where it has: it goes on."""
        with self._lock:
            if job not in job.jobs.waiting:
                return False
            del job.jobs.waiting[job]
            self.size -= 1
            return True

    def close(self) -> None:
        with self._lock:
            for jobs in self._models.values():
                jobs.waiting.clear()
            for _ in range(self._threads):
                self._tickets.put(None)

    def _run(self) -> None:
        while (jobs := self._tickets.get()) is not None:
            self._run_first(jobs)
            # What it refers to must not stay until the next ticket.
            del jobs

    def _run_first(self, jobs: _ModelJobs) -> None:
        with self._lock:
            jobs.tickets -= 1
            jobs.running += 1
            # None where it was dropped.
            job = jobs.waiting.popitem(last=False)[0] if jobs.waiting else None
        if job is not None:
            job.work()
        with self._lock:
            jobs.running -= 1
            if job is not None:
                self.size -= 1
            self._want_thread(jobs)
            if not (jobs.waiting or jobs.running or jobs.tickets):
                del self._models[jobs.name]

    def _want_thread(self, jobs: _ModelJobs) -> None:
        if jobs.tickets < len(jobs.waiting) and jobs.running + jobs.tickets < self._max_per_model:
            jobs.tickets += 1
            self._tickets.put(jobs)
