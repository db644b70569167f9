import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from service.runtime.shared_memory import COMMON, MIN_CAPACITY, Areas, Kind, SharedMemory
from service.security.rate_limit import RateLimit, RateLimits
from tests.unit.service.forked import Forked

RATE, REQUESTS, SECONDS = "5 per 10 seconds", 5, 10
# Accepted by each of several processes.
TIMES = 2000


@dataclass
class Clock:
    """Seconds since the machine started, which may be fewer than a window has."""

    now: float = 1.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def memory() -> SharedMemory:
    return SharedMemory()


def limit_of(name: str, text: str, memory: SharedMemory | None = None, clock: Clock | None = None) -> RateLimit:
    """As each process makes its own."""
    limit = RateLimits(memory, clock or time.monotonic).of(name, text)
    assert limit is not None
    return limit


def accepted(limit: RateLimit, times: int = 1) -> int:
    return [limit.seconds_to_wait() for _ in range(times)].count(0)


def test_an_empty_rate_is_no_limit() -> None:
    assert RateLimits().of("alice", "") is None


def test_a_rejected_request_is_told_how_long_to_wait() -> None:
    clock = Clock()
    limit = limit_of("alice", "3/hour", clock=clock)
    assert [limit.seconds_to_wait() for _ in range(3)] == [0, 0, 0]
    assert limit.seconds_to_wait() == 3600
    clock.now += 0.5
    assert limit.seconds_to_wait() == 3600
    clock.now += 3599.4
    assert limit.seconds_to_wait() == 1
    clock.now += 0.1
    assert accepted(limit, 4) == 3
    assert str(limit) == "3 requests in 3600 s"


def test_no_window_has_more_than_the_limit_whichever_process_accepts(memory: SharedMemory) -> None:
    clock, chance = Clock(), random.Random(1)
    limits = [limit_of("alice", RATE, memory, clock) for _ in range(3)]
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
    """Each writes down when it was accepted."""
    requests, seconds = 20, 1
    times = [memory.doubles_of(Areas(memory, Kind.COUNT).take(slot, b"times", 8 * TIMES))[:TIMES] for slot in range(3)]

    def hammer(slot: int) -> Callable[[Callable[[], None]], None]:
        def run(_go: Callable[[], None]) -> None:
            # A clock a hundred times as fast, which remembers its last reading: that is the one which was entered.
            moments = [0.0]

            def clock() -> float:
                moments[0] = time.monotonic() * 100
                return moments[0]

            limit = RateLimits(memory, clock).of("alice", f"{requests} per {seconds} second")
            assert limit is not None
            count = 0
            while count < TIMES:
                if not limit.seconds_to_wait():
                    times[slot][count] = moments[0]
                    count += 1

        return run

    children = [Forked(hammer(slot)) for slot in range(3)]
    assert [child.join() for child in children] == [0, 0, 0]
    admitted = sorted(moment for own in times for moment in own)
    spans = [later - earlier for earlier, later in zip(admitted, admitted[requests:], strict=False)]
    assert min(spans) >= seconds


def test_what_an_ended_process_accepted_still_counts(memory: SharedMemory) -> None:
    assert Forked(lambda _go: accepted(limit_of("alice", "5/hour", memory), 3)).join() == 0
    assert accepted(limit_of("alice", "5/hour", memory), 3) == 2


def test_a_process_killed_before_it_wrote_the_time_down_leaves_room_for_the_next(memory: SharedMemory) -> None:
    clock = Clock()
    limit = limit_of("alice", "2/hour", memory, clock)
    assert accepted(limit) == 1
    (area,) = (area for area in memory.areas() if area.kind == Kind.RING)
    memory.words_of(area)[0] += 1
    clock.now += 3600
    assert accepted(limit, 3) == 2


def test_keys_and_rates_have_limits_of_their_own(memory: SharedMemory) -> None:
    for name, rate in (("alice", "1/hour"), ("bob", "1/hour"), ("alice", "2/hour")):
        limit = limit_of(name, rate, memory)
        assert accepted(limit, 3) == int(rate[0])


def test_a_key_file_that_is_read_again_does_not_reset_the_limit() -> None:
    limits = RateLimits()
    before, after = limits.of("alice", "1/hour"), limits.of("alice", "1/hour")
    assert before is not None
    assert after is not None
    assert (accepted(before), accepted(after)) == (1, 0)


def test_without_room_in_the_shared_memory_each_process_limits_on_its_own(caplog: pytest.LogCaptureFixture) -> None:
    memory = SharedMemory(MIN_CAPACITY)
    with memory.locked():
        memory.append(Kind.VALUE, COMMON, b"x", MIN_CAPACITY - 2**17)
    limits = RateLimits(memory)
    alice, everybody = limits.of("alice", "100000/hour"), limits.of("", "100000/hour")
    assert alice is not None
    assert everybody is not None
    assert accepted(alice, 100_001) == 100_000
    assert accepted(everybody) == 1
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert [message.rpartition("; ")[2] for message in caplog.messages] == [
        "each worker process limits alice on its own",
        "each worker process limits all clients on its own",
    ]


def test_setting_the_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = limit_of("alice", "1/hour")
    assert accepted(limit) == 1
    monkeypatch.setattr(time, "time", lambda: 1e12)
    assert accepted(limit) == 0
