import logging
import random
from collections.abc import Callable

import pytest

from service.runtime.shared_memory import COMMON, MIN_CAPACITY, Areas, Kind, SharedMemory
from service.security.rate_limit import RateLimit, RateLimits
from tests.unit.service.forked import Forked

RATE, REQUESTS, SECONDS = "5 per 10 seconds", 5, 10
# More than processes take turns with.
MANY = 20_000


class Clock:
    """Seconds since the machine started, which may be fewer than a window has."""

    now = 1.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def memory() -> SharedMemory:
    return SharedMemory()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def limit_of(limits: RateLimits, text: str, name: str = "alice") -> RateLimit:
    limit = limits.of(name, text)
    assert limit is not None
    return limit


def accepted(limit: RateLimit, times: int = 1) -> int:
    return [limit.seconds_to_wait() for _ in range(times)].count(0)


def test_empty_rate_is_no_limit() -> None:
    assert RateLimits().of("alice", "") is None


def test_rejected_request_is_told_how_long_to_wait(clock: Clock) -> None:
    limit = limit_of(RateLimits(clock=clock), "3/hour")
    assert [limit.seconds_to_wait() for _ in range(4)] == [0, 0, 0, 3600]
    clock.now += 0.5
    assert limit.seconds_to_wait() == 3600
    clock.now += 3599.4
    assert limit.seconds_to_wait() == 1
    clock.now += 0.1
    assert accepted(limit, 4) == 3
    assert str(limit) == "3 requests in 3600 s"


def test_no_window_has_more_than_the_limit_whichever_process_accepts(memory: SharedMemory, clock: Clock) -> None:
    chance = random.Random(1)
    limits = [limit_of(RateLimits(memory, clock), RATE) for _ in range(3)]
    admitted: list[float] = []
    for _ in range(3000):
        clock.now += chance.random()
        within = [moment for moment in admitted if moment > clock.now - SECONDS]
        is_accepted = accepted(chance.choice(limits)) == 1
        assert is_accepted is (len(within) < REQUESTS)
        if is_accepted:
            admitted.append(clock.now)
    assert len(admitted) > 500


def test_processes_that_run_at_once_keep_the_limit(memory: SharedMemory) -> None:
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


def test_process_killed_before_it_wrote_the_time_leaves_room_for_the_next(memory: SharedMemory, clock: Clock) -> None:
    limit = limit_of(RateLimits(memory, clock), "2/hour")
    assert accepted(limit) == 1
    (area,) = (area for area in memory.areas() if area.kind == Kind.RING)
    memory.words_of(area)[0] += 1
    clock.now += 3600
    assert accepted(limit, 3) == 2


def test_keys_and_rates_have_limits_of_their_own() -> None:
    limits = RateLimits()
    for name, rate in (("alice", "1/hour"), ("bob", "1/hour"), ("alice", "2/hour")):
        assert accepted(limit_of(limits, rate, name), 3) == int(rate[0])


def test_file_that_is_read_again_does_not_reset_the_limit() -> None:
    limits = RateLimits()
    assert [accepted(limit_of(limits, "1/hour")) for _ in range(2)] == [1, 0]


def test_without_room_in_the_shared_memory_each_process_limits_on_its_own(caplog: pytest.LogCaptureFixture) -> None:
    memory = SharedMemory(MIN_CAPACITY)
    with memory.locked():
        memory.append(Kind.VALUE, COMMON, b"x", MIN_CAPACITY - 2**17)
    assert accepted(limit_of(RateLimits(memory), "100000/hour"), 100_001) == 100_000
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.message.endswith("each worker process limits alice on its own")
