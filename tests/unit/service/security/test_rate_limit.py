import logging
import random
from collections.abc import Callable

import pytest

from service.runtime.shared_memory import COMMON, MIN_CAPACITY, Areas, Kind, SharedMemory
from service.security.rate_limit import RateLimit, RateLimits
from tests.unit.service.clocks import FakeClock
from tests.unit.service.forked import Forked

# More than processes take turns with, or than fit where little room is left.
MANY = 20_000


def limit_of(limits: RateLimits, text: str, name: str = "alice") -> RateLimit:
    limit = limits.of(name, text)
    assert limit is not None
    return limit


def accepted(limit: RateLimit, times: int = 1) -> int:
    return [limit.seconds_to_wait() for _ in range(times)].count(0)


def test_rejected_request_is_told_how_long_to_wait() -> None:
    clock = FakeClock()
    # Since the machine started: fewer than a window has.
    clock.now = 1.0
    limit = limit_of(RateLimits(clock=clock), "3/hour")
    assert [limit.seconds_to_wait() for _ in range(4)] == [0, 0, 0, 3600]
    clock.now += 3599.9
    assert limit.seconds_to_wait() == 1
    clock.now += 0.1
    assert accepted(limit, 4) == 3


def test_no_window_has_more_than_the_limit_whichever_process_accepts() -> None:
    chance, memory, clock = random.Random(1), SharedMemory(), FakeClock()
    limits = [limit_of(RateLimits(memory, clock), "5 per 10 seconds") for _ in range(3)]
    admitted: list[float] = []
    for _ in range(1000):
        clock.now += chance.random()
        is_free = len([moment for moment in admitted[-5:] if moment > clock.now - 10]) < 5
        assert accepted(chance.choice(limits)) == is_free
        if is_free:
            admitted.append(clock.now)
    assert len(admitted) > 200


def test_processes_that_run_at_once_keep_the_limit() -> None:
    memory = SharedMemory()
    counts = memory.words_of(Areas(memory, Kind.COUNT).take(COMMON, b"accepted", 3 * 8))

    def work(number: int) -> Callable[[object], None]:
        def run(_go: object) -> None:
            counts[number] = accepted(limit_of(RateLimits(memory), f"{MANY}/hour"), MANY)

        return run

    children = [Forked(work(number)) for number in range(3)]
    assert [child.join() for child in children] == [0, 0, 0]
    assert sum(counts) == MANY
    # Those of ended processes still count.
    assert accepted(limit_of(RateLimits(memory), f"{MANY}/hour")) == 0


def test_process_killed_before_it_wrote_the_time_leaves_room_for_the_next() -> None:
    memory, clock = SharedMemory(), FakeClock()
    limit = limit_of(RateLimits(memory, clock), "2/hour")
    assert accepted(limit) == 1
    (area,) = (area for area in memory.areas() if area.kind == Kind.RING)
    memory.words_of(area)[0] += 1
    clock.now += 3600
    assert accepted(limit, 3) == 2


def test_keys_and_rates_have_limits_of_their_own_each_time_they_are_read() -> None:
    limits = RateLimits()
    for name, rate, count in (("alice", "1/hour", 1), ("bob", "1/hour", 1), ("alice", "2/hour", 2)):
        assert accepted(limit_of(limits, rate, name), 3) == count
        assert accepted(limit_of(limits, rate, name)) == 0


def test_without_shared_room_each_process_limits_on_its_own(caplog: pytest.LogCaptureFixture) -> None:
    memory = SharedMemory(MIN_CAPACITY)
    with memory.locked():
        memory.append(Kind.VALUE, COMMON, b"x", MIN_CAPACITY - 2**17)
    assert accepted(limit_of(RateLimits(memory), f"{MANY}/hour"), MANY + 1) == MANY
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.message.endswith("each worker process limits alice on its own")
