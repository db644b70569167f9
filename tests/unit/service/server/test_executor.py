"""Responses made by threads. Functions and jobs are held at will; nothing is timed but deadlines."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pytest
from prometheus_client import CollectorRegistry

from service.http import Response
from service.inference.context import RequestContext
from service.inference.deadline import DEADLINE_HEADER, Deadlines
from service.metrics.definitions import Metrics
from service.server.admission import Rejections
from service.server.executor import Executor, Job, ThreadPool
from tests.unit.service.fakes import patient_settings
from tests.unit.service.held import MAX_SECONDS, Held

LONG_MS = 60_000


@dataclass
class Bench:
    executor: Executor
    page: CollectorRegistry
    held: Held = field(default_factory=Held)
    ran: list[str] = field(default_factory=list)

    def _hold(self) -> Response:
        self.held()
        return Response(200, b"at last")

    def respond(
        self, milliseconds: int | None, model: str, function: Callable[[], Response]
    ) -> "Response | asyncio.Future[Response]":
        context = RequestContext()
        if milliseconds is not None:
            headers = {DEADLINE_HEADER: b"%d" % milliseconds}
            context.deadline = Deadlines(LONG_MS).from_headers(headers, context.arrived)
        return self.executor.respond(context, model, function)

    def submit(self, what: str, milliseconds: int | None = None, model: str = "model") -> "asyncio.Future[Response]":
        """Notes in `ran` that it ran."""

        def note() -> Response:
            self.ran.append(what)
            return Response(200, what.encode())

        return pending(self.respond(milliseconds, model, note))

    def hold(
        self, milliseconds: int | None = LONG_MS, model: str = "model", *, waits: bool = False
    ) -> "asyncio.Future[Response]":
        """`waits`: no thread is free for it."""
        response = pending(self.respond(milliseconds, model, self._hold))
        if not waits:
            self.held.wait_for_calls()
        return response

    def reject(self, model: str = "model") -> Response:
        rejection = self.respond(None, model, self._hold)
        assert isinstance(rejection, Response)
        return rejection

    def rejected(self, *reasons: str) -> list[float | None]:
        return [self.page.get_sample_value("serving_rejected_total", {"reason": reason}) for reason in reasons]


def pending(response: "Response | asyncio.Future[Response]") -> "asyncio.Future[Response]":
    assert not isinstance(response, Response), response
    return response


MakeBench = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path, page: CollectorRegistry) -> Iterator[MakeBench]:
    made = []

    def make_bench(*, starting: bool = False, **settings: int) -> Bench:
        every = patient_settings(tmp_path, **settings)
        metrics = Metrics(page)
        deadlines = Deadlines(every.request_timeout_ms)
        made.append(Bench(Executor(every, metrics, deadlines, Rejections(metrics), lambda: starting), page))
        return made[-1]

    yield make_bench
    for at in made:
        at.held.release()
        at.executor.close()


def error(response: Response) -> str:
    return str(orjson.loads(response.body)["error"])


async def test_hanging_request_is_504_and_its_late_response_dropped(make: MakeBench) -> None:
    at = make()
    response = await at.hold(20)
    assert response.status == 504
    assert error(response).startswith("the request took longer than 20 ms (X-Request-Timeout-Ms); it was being read")
    assert at.rejected("deadline") == [1]
    at.held.release()
    # On the same loop, and behind the late one.
    assert (await at.submit("next")).body == b"next"


async def test_expired_request_leaves_the_queue(make: MakeBench) -> None:
    at = make(threads=1, max_queue_size=1)
    held, waiting = at.hold(), at.submit("expired", 20)
    assert at.reject().status == 429
    assert error(await waiting).endswith("it was waiting for a free thread")
    after = at.submit("after")
    at.held.release()
    assert [(await one).status for one in (held, after)] == [200, 200]
    assert at.ran == ["after"]


async def test_queue_length_is_a_metric(make: MakeBench) -> None:
    at = make(threads=1)
    lengths = []

    def note_length() -> None:
        lengths.append(at.page.get_sample_value("serving_thread_queue_length"))

    held = at.hold()
    note_length()
    later = [at.submit("later") for _ in range(2)]
    note_length()
    at.held.release()
    await asyncio.gather(held, *later)
    note_length()
    assert lengths == [0, 2, 0]


async def test_no_free_thread_in_time_is_429(make: MakeBench) -> None:
    at = make(threads=1, max_queue_ms=20)
    held, waiting, hurried = at.hold(), at.submit("too late"), at.submit("expired", 10)
    rejection = await waiting
    assert (rejection.status, rejection.headers) == (429, (("retry-after", "1"),))
    assert error(rejection) == "no thread was free for it within 20 ms (SERVING_MAX_QUEUE_MS)"
    assert (await hurried).status == 504
    assert not held.done()
    at.held.release()
    assert (await held).status == 200
    assert at.rejected("queue_full", "deadline", "client_left") == [1, 1, None]
    # On a busy machine that may be too late as well.
    while (await at.submit("next")).status != 200:
        pass
    assert at.ran == ["next"]


@pytest.mark.parametrize(
    ("settings", "milliseconds", "limit"),
    [
        ({"request_timeout_ms": 20}, None, "SERVING_REQUEST_TIMEOUT_MS"),
        ({"max_queue_ms": 1}, 50, "X-Request-Timeout-Ms"),
    ],
)
async def test_running_request_has_its_deadline_alone(
    make: MakeBench, settings: dict[str, int], milliseconds: int | None, limit: str
) -> None:
    response = await make(**settings).hold(milliseconds)
    assert response.status == 504
    assert limit in error(response)


async def test_no_request_is_rejected_for_waiting_until_the_first_models_are_loaded(make: MakeBench) -> None:
    at = make(starting=True, threads=1, max_queue_ms=1)
    held, waiting = at.hold(), at.submit("waiting")
    # It ends later than the other could have been rejected.
    assert (await at.submit("expired", 20)).status == 504
    assert not waiting.done()
    at.held.release()
    assert [(await one).status for one in (held, waiting)] == [200, 200]


async def test_request_is_not_run_once_its_client_left(make: MakeBench) -> None:
    at = make(threads=1)
    held, left, stays = at.hold(), at.submit("left"), at.submit("stays")
    left.cancel()
    await asyncio.sleep(0)
    at.held.release()
    assert [(await one).status for one in (held, stays)] == [200, 200]
    assert at.ran == ["stays"]
    assert at.rejected("client_left", "deadline") == [1, None]


async def test_client_that_leaves_during_its_run_harms_no_other(make: MakeBench) -> None:
    at = make(threads=1)
    at.hold().cancel()
    following = at.submit("next")
    at.held.release()
    assert (await following).body == b"next"


async def test_hanging_model_takes_neither_all_threads_nor_the_whole_queue(make: MakeBench) -> None:
    at = make(threads=8, max_queue_size=8)
    held = [at.hold(model="hangs") for _ in range(7)] + [at.hold(model="hangs", waits=True) for _ in range(7)]
    rejection = at.reject("hangs")
    assert (rejection.status, rejection.headers) == (429, (("retry-after", "1"),))
    assert error(rejection) == (
        "7 requests for this model wait already; of the 8 that may (SERVING_MAX_QUEUE_SIZE) one model's are at most 7"
    )
    for other in ("one", "two"):
        assert (await at.submit(other, model=other)).status == 200
    assert at.rejected("queue_full") == [1]
    at.held.release()
    assert [(await one).status for one in held] == [200] * 14


async def test_operations_have_threads_of_their_own(make: MakeBench) -> None:
    at = make(threads=1)
    at.hold()
    assert (await at.executor.respond_apart(RequestContext(), lambda: Response(200, b"health"))).body == b"health"


async def test_bug_is_500_and_leaves_the_queue(make: MakeBench, caplog: pytest.LogCaptureFixture) -> None:
    def bug() -> Response:
        raise ZeroDivisionError

    at = make(threads=1, max_queue_size=1)
    for _ in range(3):
        assert (await pending(at.respond(None, "model", bug))).status == 500
    assert "bug failed" in caplog.text


# The pool


@dataclass
class Pool:
    pool: ThreadPool
    order: list[str] = field(default_factory=list)
    held: Held = field(default_factory=Held)
    ended: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def hold(self, model: str, threads: int = 1) -> list[Job]:
        """Jobs that have begun, and end with `finish`."""

        def work() -> None:
            self.held()
            self.ended.release()

        jobs = [self.pool.submit(model, work) for _ in range(threads)]
        self.held.wait_for_calls(threads)
        return jobs

    def note(self, model: str, what: str) -> Job:
        def work() -> None:
            self.order.append(what)
            self.ended.release()

        return self.pool.submit(model, work)

    def wait_for(self, jobs: int) -> None:
        for _ in range(jobs):
            assert self.ended.acquire(timeout=MAX_SECONDS)

    def finish(self, jobs: int) -> None:
        self.held.release()
        self.wait_for(jobs)


def pool_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("test-")]


@contextmanager
def thread_pool(threads: int, max_per_model: int) -> Iterator[Pool]:
    at = Pool(ThreadPool("test", threads, max_per_model))
    yield at
    at.held.release()
    at.pool.close()
    for thread in pool_threads():
        thread.join(MAX_SECONDS)
        assert not thread.is_alive()


def test_jobs_begin_in_order() -> None:
    with thread_pool(1, 10) as at:
        at.hold("a")
        for number in "123456":
            at.note("a" if number in "135" else "b", number)
        at.finish(7)
        assert at.order == list("123456")


def test_threads_are_no_more_than_jobs_and_the_limit() -> None:
    with thread_pool(3, 3) as at:
        at.hold("a", 2)
        assert len(pool_threads()) == 2
        at.hold("a")
        for _ in range(5):
            at.note("a", "waits")
        assert len(pool_threads()) == 3
        at.finish(8)


def test_dropped_job_does_not_begin() -> None:
    with thread_pool(1, 1) as at:
        at.hold("a")
        dropped = [at.note("a", "dropped"), at.note("b", "dropped")]
        at.note("a", "kept")
        for _ in range(2):
            for job in dropped:
                at.pool.drop(job)
        assert (at.pool.size, at.pool.size_of("a"), at.pool.size_of("b")) == (2, 2, 0)
        at.finish(2)
        assert at.order == ["kept"]


def test_job_that_has_begun_is_not_dropped() -> None:
    with thread_pool(1, 1) as at:
        (held,) = at.hold("a")
        assert not at.pool.drop(held)
        assert at.pool.size == 1
        at.finish(1)


def test_names_without_jobs_are_forgotten() -> None:
    with thread_pool(1, 1) as at:
        for number in range(100):
            at.note(f"model {number}", "")
        at.wait_for(100)
        at.hold("last")
        assert list(at.pool._models) == ["last"]
        at.finish(1)


def test_closed_pool_begins_no_job() -> None:
    with thread_pool(1, 1) as at:
        at.hold("a")
        at.note("a", "too late")
        at.pool.close()
    assert at.order == []
