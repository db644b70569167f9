"""Responses made by threads. Functions and jobs are held at will; nothing is timed but deadlines."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import orjson
import pytest

from service.http import Response
from service.inference.context import RequestContext
from service.inference.deadline import DEADLINE_HEADER, Deadline, Deadlines
from service.metrics.definitions import Metrics
from service.server.admission import Rejections
from service.server.executor import Executor, Job, ThreadPool
from tests.unit.service.fakes import patient_settings
from tests.unit.service.held import MAX_SECONDS, Held

LONG_MS = 60_000


@dataclass
class Bench:
    executor: Executor
    metrics: Metrics
    held: Held = field(default_factory=Held)
    ran: list[str] = field(default_factory=list)

    def held_response(self) -> Response:
        self.held()
        return Response(200, b"at last")

    def respond(
        self, milliseconds: int | None, model: str, function: Callable[[], Response]
    ) -> "asyncio.Future[Response]":
        context = RequestContext()
        if milliseconds is not None:
            headers = {DEADLINE_HEADER: b"%d" % milliseconds}
            context.deadline = Deadlines(LONG_MS).from_headers(headers, context.arrived)
        response = self.executor.respond(context, model, function)
        assert not isinstance(response, Response), response
        return response

    def submit(self, what: str, milliseconds: int | None = None, model: str = "model") -> "asyncio.Future[Response]":
        """Notes in `ran` that it ran."""

        def note() -> Response:
            self.ran.append(what)
            return Response(200, what.encode())

        return self.respond(milliseconds, model, note)

    def hold(
        self, milliseconds: int | None = LONG_MS, model: str = "model", *, waits: bool = False
    ) -> "asyncio.Future[Response]":
        """`waits`: no thread is free for it."""
        response = self.respond(milliseconds, model, self.held_response)
        if not waits:
            self.held.wait_for_calls()
        return response

    def reject(self, model: str = "model") -> Response:
        rejection = self.executor.respond(RequestContext(), model, self.held_response)
        assert isinstance(rejection, Response)
        return rejection

    async def release(self, *responses: "asyncio.Future[Response]") -> None:
        """And wait until these have ended well."""
        self.held.release()
        assert [(await response).status for response in responses] == [200] * len(responses)

    def rejected(self, *reasons: str) -> list[float | None]:
        find = self.metrics.registry.get_sample_value
        return [find("serving_rejected_total", {"reason": reason}) for reason in reasons]

    @property
    def queue_length(self) -> float | None:
        return self.metrics.registry.get_sample_value("serving_thread_queue_length")


MakeBench = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path, metrics: Metrics) -> Iterator[MakeBench]:
    made = []

    def make_bench(*, starting: bool = False, **settings: int) -> Bench:
        every = patient_settings(tmp_path, **settings)
        deadlines = Deadlines(every.request_timeout_ms)
        made.append(Bench(Executor(every, metrics, deadlines, Rejections(metrics), lambda: starting), metrics))
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
    assert (response.status, at.rejected("deadline")) == (504, [1])
    assert error(response).startswith("the request took longer than 20 ms (X-Request-Timeout-Ms); it was being read")
    at.held.release()
    # On the same loop, and behind the late one.
    assert (await at.submit("next")).body == b"next"


async def test_response_on_its_way_at_the_deadline_is_sent(make: MakeBench) -> None:
    at, context = make(), RequestContext()
    context.deadline = Deadline(perf_counter() + 0.01, "10 ms")
    # As a thread does that has the response.
    assert context.deadline.claim()
    response = at.executor.respond(context, "model", at.held_response)
    assert isinstance(response, asyncio.Future)
    at.held.wait_for_calls()
    # It expires later.
    assert (await at.hold(20)).status == 504
    await at.release(response)


async def test_expired_request_leaves_the_queue(make: MakeBench) -> None:
    at = make(threads=1, max_queue_size=1)
    held = at.hold()
    assert at.queue_length == 0
    waiting = at.submit("expired", 20)
    assert (at.reject().status, at.queue_length) == (429, 1)
    assert error(await waiting).endswith("it was waiting for a free thread")
    await at.release(held, at.submit("after"))
    assert (at.ran, at.queue_length) == (["after"], 0)


async def test_no_free_thread_in_time_is_429(make: MakeBench) -> None:
    at = make(threads=1, max_queue_ms=20)
    held, waiting, hurried = at.hold(), at.submit("too late"), at.submit("expired", 10)
    rejection = await waiting
    assert (rejection.status, rejection.headers) == (429, (("retry-after", "1"),))
    assert error(rejection) == "no thread was free for it within 20 ms (SERVING_MAX_QUEUE_MS)"
    assert ((await hurried).status, held.done()) == (504, False)
    await at.release(held)
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
    await at.release(held, waiting)


async def test_request_is_not_run_once_its_client_left(make: MakeBench) -> None:
    at = make(threads=1)
    held, left, stays = at.hold(), at.submit("left"), at.submit("stays")
    left.cancel()
    await asyncio.sleep(0)
    await at.release(held, stays)
    assert (at.ran, at.rejected("client_left", "deadline")) == (["stays"], [1, None])


async def test_client_that_leaves_during_its_run_harms_no_other(make: MakeBench) -> None:
    at = make(threads=1)
    at.hold().cancel()
    await at.release(at.submit("next"))


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
    await at.release(*held)


async def test_operations_have_threads_of_their_own(make: MakeBench) -> None:
    at = make(threads=1)
    at.hold()
    assert (await at.executor.respond_apart(RequestContext(), lambda: Response(200, b"health"))).body == b"health"


async def test_bug_is_500_and_leaves_the_queue(make: MakeBench, caplog: pytest.LogCaptureFixture) -> None:
    def bug() -> Response:
        raise ZeroDivisionError

    at = make(threads=1, max_queue_size=1)
    for _ in range(3):
        assert (await at.respond(None, "model", bug)).status == 500
    assert "bug failed" in caplog.text


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

    def finish(self, jobs: int) -> None:
        self.held.release()
        for _ in range(jobs):
            assert self.ended.acquire(timeout=MAX_SECONDS)


def pool_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("test-")]


MakePool = Callable[[int, int], Pool]


@pytest.fixture
def make_pool() -> Iterator[MakePool]:
    """Of so many threads, and so many for a model."""
    made = []

    def make_pool(threads: int, max_per_model: int) -> Pool:
        made.append(Pool(ThreadPool("test", threads, max_per_model)))
        return made[-1]

    yield make_pool
    for at in made:
        at.held.release()
        at.pool.close()
    for thread in pool_threads():
        thread.join(MAX_SECONDS)
        assert not thread.is_alive()


@pytest.fixture
def at(make_pool: MakePool) -> Pool:
    """Of one thread."""
    return make_pool(1, 1)


def test_jobs_begin_in_order(make_pool: MakePool) -> None:
    at = make_pool(1, 10)
    at.hold("a")
    for number in "123456":
        at.note("a" if number in "135" else "b", number)
    at.finish(7)
    assert at.order == list("123456")


def test_threads_are_no_more_than_jobs_and_the_limit(make_pool: MakePool) -> None:
    at = make_pool(3, 3)
    at.hold("a", 2)
    assert len(pool_threads()) == 2
    at.hold("a")
    for _ in range(5):
        at.note("a", "waits")
    assert len(pool_threads()) == 3
    at.finish(8)


def test_only_a_job_that_has_not_begun_is_dropped(at: Pool) -> None:
    (held,) = at.hold("a")
    dropped = [at.note("a", "dropped"), at.note("b", "dropped")]
    at.note("a", "kept")
    assert [at.pool.drop(job) for job in (held, *dropped, *dropped)] == [False, True, True, False, False]
    assert (at.pool.size, at.pool.size_of("a"), at.pool.size_of("b")) == (2, 2, 0)
    at.finish(2)
    assert at.order == ["kept"]


def test_names_without_jobs_are_forgotten(at: Pool) -> None:
    for number in range(100):
        at.note(f"model {number}", "")
    at.finish(100)
    at.held.hold_again()
    at.hold("last")
    assert list(at.pool._models) == ["last"]


def test_closed_pool_begins_no_job(at: Pool) -> None:
    at.hold("a")
    at.note("a", "too late")
    at.pool.close()
    at.finish(1)
    for thread in pool_threads():
        thread.join(MAX_SECONDS)
    assert at.order == []
