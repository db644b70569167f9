"""Refusals that come in numbers, for want of time, of a key or of its rate: each client is told, but to tell them all
must not take the time of those who are let in."""

import asyncio
from collections import deque
from time import perf_counter

from service.http import Answer, error_answer
from service.inference.context import Call
from service.metrics.definitions import Metrics

# Of the event loop's time. Clients that ask again at once would else have a service that does nothing but refuse them.
SHARE = 0.03
# In seconds: what may be saved up, for whoever is refused while few are.
MOST_SAVED = 0.01
# What it takes to read a request and refuse it, in seconds: a quarter of the quickest prediction, and so much a byte.
COST, COST_OF_A_BYTE = 20e-6, 2.5e-9
SOON_SECONDS = 0.01


class Refusals:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._waiting: deque[tuple[asyncio.Future[Answer], Call, Answer]] = deque()
        self._saved = MOST_SAVED
        self._looked = perf_counter()

    def answer(self, call: Call, message: str) -> "Answer | asyncio.Future[Answer]":
        """For want of time."""
        self._metrics.rejected.labels("queue_full").inc()
        return self.give(call, _refusal(message))

    def settle(self, answer: "asyncio.Future[Answer]", call: Call, message: str) -> None:
        """The same for one who waits for this future."""
        self._metrics.rejected.labels("queue_full").inc()
        self._wait(answer, call, _refusal(message))

    def give(self, call: Call, refusal: Answer) -> "Answer | asyncio.Future[Answer]":
        """At once, or when it is its turn."""
        if not self._waiting and self._affords(call):
            return refusal
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._wait(answer, call, refusal)
        return answer

    def _wait(self, answer: "asyncio.Future[Answer]", call: Call, refusal: Answer) -> None:
        self._waiting.append((answer, call, refusal))
        if len(self._waiting) == 1:
            self._send_soon()

    def _send_soon(self) -> None:
        asyncio.get_running_loop().call_later(SOON_SECONDS, self._send)

    def _send(self) -> None:
        while self._waiting:
            answer, call, refusal = self._waiting[0]
            # Who has left costs nothing.
            if not answer.done():
                if not self._affords(call):
                    self._send_soon()
                    return
                answer.set_result(refusal)
            self._waiting.popleft()

    def _affords(self, call: Call) -> bool:
        now = perf_counter()
        self._saved = min(MOST_SAVED, self._saved + SHARE * (now - self._looked))
        self._looked = now
        # However long a body is: once all is saved up, one more can be refused.
        cost = min(COST + COST_OF_A_BYTE * call.body_bytes, MOST_SAVED)
        if self._saved < cost:
            return False
        self._saved -= cost
        return True


def _refusal(message: str) -> Answer:
    return error_answer(429, message, ("retry-after", "1"))
