import asyncio
from collections.abc import Coroutine
from typing import Any

from prometheus_client import CollectorRegistry

from service.http import Response
from service.inference.context import RequestContext
from service.metrics.definitions import Metrics
from service.server.admission import MAX_REJECTION_SHARE, MAX_SAVED_SECONDS, REJECTION_SECONDS, Rejections

SECONDS_AT_MOST = 10
AT_ONCE = int(MAX_SAVED_SECONDS / REJECTION_SECONDS)
# More than can be refused meanwhile, however slow the machine.
MANY = AT_ONCE + int(SECONDS_AT_MOST * MAX_REJECTION_SHARE / REJECTION_SECONDS)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, SECONDS_AT_MOST))


def context(body_bytes: int = 0) -> RequestContext:
    return RequestContext({}, body_bytes)


def test_as_many_as_can_be_afforded_are_refused_at_once_and_the_others_in_their_turn(page: CollectorRegistry) -> None:
    async def scenario() -> None:
        rejections = Rejections(Metrics(page))
        answers = [rejections.queue_full(context(), "no") for _ in range(MANY)]
        assert all(isinstance(answer, Response) and answer.status == 429 for answer in answers[:AT_ONCE])
        waiting = [answer for answer in answers if isinstance(answer, asyncio.Future)]
        assert answers[-len(waiting) :] == waiting
        first = await waiting[0]
        assert (first.status, first.body, first.headers) == (429, b'{"error":"no"}', (("retry-after", "1"),))
        assert not waiting[-1].done()

    run(scenario())
    assert page.get_sample_value("serving_rejected_total", {"reason": "queue_full"}) == MANY


def test_other_refusals_are_given_in_the_same_turn_and_are_counted_by_who_decides_them(
    page: CollectorRegistry,
) -> None:
    async def scenario() -> None:
        rejections = Rejections(Metrics(page))
        unauthorized = Response(401, b"no key")
        answers = [rejections.respond(context(), unauthorized) for _ in range(MANY)]
        assert answers[:AT_ONCE] == [unauthorized] * AT_ONCE
        waiting = [answer for answer in answers if isinstance(answer, asyncio.Future)]
        behind = rejections.queue_full(context(), "no")
        assert isinstance(behind, asyncio.Future)
        assert await waiting[0] is unauthorized
        assert not behind.done()

    run(scenario())
    assert page.get_sample_value("serving_rejected_total", {"reason": "queue_full"}) == 1


def test_who_has_left_meanwhile_costs_nothing(page: CollectorRegistry) -> None:
    async def scenario() -> None:
        rejections = Rejections(Metrics(page))
        waiting = [
            answer for _ in range(MANY) if isinstance(answer := rejections.queue_full(context(), "no"), asyncio.Future)
        ]
        for answer in waiting[:-1]:
            answer.cancel()
        assert (await waiting[-1]).status == 429

    run(scenario())


def test_one_who_waits_already_is_refused_behind_the_others(page: CollectorRegistry) -> None:
    async def scenario() -> None:
        rejections = Rejections(Metrics(page))
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        rejections.settle_queue_full(answer, context(), "not in time")
        behind = rejections.queue_full(context(), "no")
        assert isinstance(behind, asyncio.Future)
        assert (await answer).body == b'{"error":"not in time"}'
        await behind

    run(scenario())


def test_a_body_longer_than_can_ever_be_afforded_is_refused_all_the_same(page: CollectorRegistry) -> None:
    async def scenario() -> None:
        rejections = Rejections(Metrics(page))
        answers = [rejections.queue_full(context(10**9), "no") for _ in range(2)]
        assert [isinstance(answer, Response) for answer in answers] == [True, False]
        assert not isinstance(answers[1], Response)
        assert (await answers[1]).status == 429

    run(scenario())
