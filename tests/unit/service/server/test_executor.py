"""Answers by threads: at the deadline, when the client leaves, and when too many wait."""

import asyncio
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client import CollectorRegistry

from service.http import Response
from service.inference.context import RequestContext
from service.inference.deadline import Deadlines
from service.metrics.definitions import Metrics
from service.server.admission import Rejections
from service.server.executor import Executor
from tests.unit.service.fakes import patient_settings

SECONDS_AT_MOST = 10


@dataclass
class Bench:
    """`began`, of what is held until `go_on`."""

    executor: Executor
    page: CollectorRegistry
    deadlines: Deadlines = field(default_factory=lambda: Deadlines(30_000))
    began: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go_on: threading.Event = field(default_factory=threading.Event)
    ran: list[str] = field(default_factory=list)

    def hold(self) -> Response:
        self.began.release()
        assert self.go_on.wait(SECONDS_AT_MOST)
        return Response(200, b"at last")

    def note(self, what: str) -> Response:
        self.ran.append(what)
        return Response(200, what.encode())

    def context(self, milliseconds: int | None = None) -> RequestContext:
        context = RequestContext()
        if milliseconds is not None:
            context.deadline = self.deadlines.from_header(b"%d" % milliseconds, context.arrived)
        return context

    def begin_to_hang(self, model: str, milliseconds: int) -> "asyncio.Future[Response]":
        answer = pending(self.executor.respond(self.context(milliseconds), model, self.hold))
        assert self.began.acquire(timeout=SECONDS_AT_MOST)
        return answer

    def rejected(self, reason: str) -> float | None:
        return self.page.get_sample_value("serving_rejected_total", {"reason": reason})


def pending(answer: "Response | asyncio.Future[Response]") -> "asyncio.Future[Response]":
    assert not isinstance(answer, Response), answer
    return answer


def run(scenario: "Coroutine[Any, Any, None]") -> None:
    asyncio.run(asyncio.wait_for(scenario, SECONDS_AT_MOST))


@pytest.fixture
def make(tmp_path: Path) -> Any:
    def make_bench(*, starting: bool = False, **settings: int) -> Bench:
        page = CollectorRegistry()
        every = patient_settings(tmp_path, **settings)
        metrics = Metrics(page)
        deadlines = Deadlines(every.request_timeout_ms)
        return Bench(Executor(every, metrics, deadlines, Rejections(metrics), lambda: starting), page)

    return make_bench


def error(answer: Response) -> str:
    return str(orjson.loads(answer.body)["error"])


def test_a_request_that_hangs_is_answered_at_its_deadline_and_its_late_answer_dropped(make: Any) -> None:
    async def scenario() -> None:
        at = make()
        answer = await at.begin_to_hang("model", 20)
        assert answer.status == 504
        assert error(answer).startswith("the request took longer than 20 ms (X-Request-Timeout-Ms); it was being read")
        assert at.rejected("deadline") == 1
        at.go_on.set()
        # On the same loop, and behind the late one.
        assert (await pending(at.executor.respond(at.context(), "model", at.note, "next"))).body == b"next"
        at.executor.close()

    run(scenario())


def test_the_settings_limit_counts_where_the_client_says_nothing(make: Any) -> None:
    async def scenario() -> None:
        at = make(request_timeout_ms=20)
        answer = await pending(at.executor.respond(at.context(), "model", at.hold))
        assert (answer.status, "20 ms (SERVING_REQUEST_TIMEOUT_MS)" in error(answer)) == (504, True)
        at.go_on.set()
        at.executor.close()

    run(scenario())


def test_what_waits_for_a_thread_at_its_deadline_is_never_run_and_leaves_its_place(make: Any) -> None:
    async def scenario() -> None:
        at = make(threads=1, max_queue_size=1)
        held = at.begin_to_hang("model", 60_000)
        waits = pending(at.executor.respond(at.context(20), "model", at.note, "expired"))
        refused = at.executor.respond(at.context(), "model", at.note, "refused")
        assert isinstance(refused, Response)
        assert refused.status == 429
        assert error(await waits).endswith("it was waiting for a free thread")
        after = pending(at.executor.respond(at.context(), "model", at.note, "after"))
        at.go_on.set()
        assert [(await one).status for one in (held, after)] == [200, 200]
        assert at.ran == ["after"]
        at.executor.close()

    run(scenario())


def test_how_many_wait_for_a_thread_is_told(make: Any) -> None:
    async def scenario() -> None:
        at = make(threads=1)

        def waiting() -> Any:
            return at.page.get_sample_value("serving_thread_queue_length")

        held = at.begin_to_hang("model", 60_000)
        assert waiting() == 0
        later = [pending(at.executor.respond(at.context(), "model", at.note, "later")) for _ in range(2)]
        assert waiting() == 2
        at.go_on.set()
        await asyncio.gather(held, *later)
        assert waiting() == 0
        at.executor.close()

    run(scenario())


def test_what_no_thread_is_free_for_in_time_is_refused_and_never_run(make: Any) -> None:
    async def scenario() -> None:
        at = make(threads=1, max_queue_ms=20)
        held = at.begin_to_hang("model", 60_000)
        waits = pending(at.executor.respond(at.context(), "model", at.note, "too late"))
        hurries = pending(at.executor.respond(at.context(10), "model", at.note, "expired"))
        refused = await waits
        assert (refused.status, refused.headers) == (429, (("retry-after", "1"),))
        assert error(refused) == "no thread was free for it within 20 ms (SERVING_MAX_QUEUE_MS)"
        assert (await hurries).status == 504
        assert not held.done()
        at.go_on.set()
        assert (await held).status == 200
        assert [at.rejected(reason) for reason in ("queue_full", "deadline", "client_left")] == [1, 1, None]
        # On a busy machine that may be too late as well.
        while (await pending(at.executor.respond(at.context(), "model", at.note, "next"))).status != 200:
            pass
        assert at.ran == ["next"]
        at.executor.close()

    run(scenario())


def test_what_has_a_thread_in_time_may_run_longer_until_its_deadline(make: Any) -> None:
    async def scenario() -> None:
        at = make(max_queue_ms=1)
        held = at.begin_to_hang("model", 50)
        assert (await held).status == 504
        at.go_on.set()
        at.executor.close()

    run(scenario())


def test_nobody_is_refused_for_waiting_until_the_models_are_loaded_at_the_start(make: Any) -> None:
    async def scenario() -> None:
        at = make(starting=True, threads=1, max_queue_ms=1)
        held = at.begin_to_hang("model", 60_000)
        waits = pending(at.executor.respond(at.context(), "model", at.note, "waits"))
        # One of a shorter deadline ends later than the other might have been refused.
        assert (await pending(at.executor.respond(at.context(20), "model", at.note, "expired"))).status == 504
        assert not waits.done()
        at.go_on.set()
        assert [(await one).status for one in (held, waits)] == [200, 200]
        at.executor.close()

    run(scenario())


def test_what_nobody_waits_for_because_the_client_left_is_never_run(make: Any) -> None:
    async def scenario() -> None:
        at = make(threads=1)
        held = at.begin_to_hang("model", 60_000)
        left = pending(at.executor.respond(at.context(), "model", at.note, "left"))
        stays = pending(at.executor.respond(at.context(), "model", at.note, "stays"))
        left.cancel()
        await asyncio.sleep(0)
        at.go_on.set()
        assert [(await one).status for one in (held, stays)] == [200, 200]
        assert at.ran == ["stays"]
        assert at.rejected("client_left") == 1
        assert at.rejected("deadline") is None
        at.executor.close()

    run(scenario())


def test_a_client_that_leaves_while_its_request_runs_takes_no_harm_to_others(make: Any) -> None:
    async def scenario() -> None:
        at = make(threads=1)
        left = at.begin_to_hang("model", 60_000)
        left.cancel()
        next_one = pending(at.executor.respond(at.context(), "model", at.note, "next"))
        at.go_on.set()
        assert (await next_one).body == b"next"
        at.executor.close()

    run(scenario())


def test_one_model_that_hangs_takes_neither_all_threads_nor_all_places(make: Any) -> None:
    async def scenario() -> None:
        at = make(threads=8, max_queue_size=8)
        held = [at.begin_to_hang("hangs", 60_000) for _ in range(7)]
        held += [pending(at.executor.respond(at.context(), "hangs", at.hold)) for _ in range(7)]
        refused = at.executor.respond(at.context(), "hangs", at.hold)
        assert isinstance(refused, Response)
        assert (refused.status, refused.headers) == (429, (("retry-after", "1"),))
        assert error(refused) == (
            "7 requests for this model wait already; of the 8 that may (SERVING_MAX_QUEUE_SIZE) one model's are "
            "at most 7"
        )
        for other in ("one", "two"):
            assert (await pending(at.executor.respond(at.context(), other, at.note, other))).status == 200
        assert at.rejected("queue_full") == 1
        at.go_on.set()
        assert [(await one).status for one in held] == [200] * 14
        at.executor.close()

    run(scenario())


def test_health_answers_while_all_threads_hang(make: Any) -> None:
    async def scenario() -> None:
        at = make(threads=1)
        held = at.begin_to_hang("model", 60_000)
        assert (await at.executor.respond_apart(at.context(), at.note, "health")).body == b"health"
        at.go_on.set()
        await held
        at.executor.close()

    run(scenario())


def test_a_bug_is_a_500_in_the_log_and_frees_its_place(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    def bug() -> Response:
        raise ZeroDivisionError

    async def scenario() -> None:
        at = make(threads=1, max_queue_size=1)
        for _ in range(3):
            assert (await pending(at.executor.respond(at.context(), "model", bug))).status == 500
        at.executor.close()

    run(scenario())
    assert "bug failed" in caplog.text
