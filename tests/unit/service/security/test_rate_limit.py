import time

import pytest

from service.runtime.shared_memory import SharedMemory
from service.security.rate_limit import RateLimits, parse


@pytest.mark.parametrize(
    ("text", "amount", "seconds"),
    [
        ("100/second", 100, 1),
        ("5000 per hour", 5000, 3600),
        ("10 per 2 minutes", 10, 120),
        ("1000000/day", 10**6, 86400),
    ],
)
def test_a_rate_is_read(text: str, amount: int, seconds: int) -> None:
    assert (parse(text).amount, parse(text).get_expiry()) == (amount, seconds)


@pytest.mark.parametrize("text", ["100", "many", "0/second", "-1/second", "1/week", "1/second;5/minute", "1000001/day"])
def test_what_is_no_rate_is_refused_with_an_example_of_one(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text!r}: expected a rate as 100/second or 5000/hour, of at most 1000000"):
        parse(text)


def test_without_a_rate_there_is_no_limit() -> None:
    assert RateLimits().of("alice", "") is None


@pytest.mark.parametrize("memory", [SharedMemory(), None])
def test_so_many_are_let_in_and_who_comes_then_is_told_when_to_come_again(memory: SharedMemory | None) -> None:
    limits = RateLimits(memory)
    alice, bob = limits.of("alice", "3/hour"), limits.of("bob", "1/hour")
    assert alice is not None
    assert bob is not None
    assert [alice.seconds_to_wait() for _ in range(3)] == [0, 0, 0]
    assert 3590 <= alice.seconds_to_wait() <= 3600
    assert bob.seconds_to_wait() == 0
    assert bob.seconds_to_wait() > 0
    assert str(alice) == "3 requests in 3600 s"


def test_what_another_process_lets_in_counts() -> None:
    memory = SharedMemory()
    ours, theirs = (RateLimits(memory, slot).of("alice", "3/hour") for slot in (0, 1))
    assert ours is not None
    assert theirs is not None
    assert [limit.seconds_to_wait() > 0 for limit in (ours, theirs, ours, theirs, ours)] == [
        False,
        False,
        False,
        True,
        True,
    ]


def test_a_file_that_is_read_again_does_not_begin_to_count_anew() -> None:
    limits = RateLimits()
    before, after = limits.of("alice", "1/hour"), limits.of("alice", "1/hour")
    assert before is not None
    assert after is not None
    assert before.seconds_to_wait() == 0
    assert after.seconds_to_wait() > 0


def test_the_wait_is_a_second_at_least() -> None:
    limit = RateLimits().of("alice", "1/second")
    assert limit is not None
    started = time.monotonic()
    assert limit.seconds_to_wait() == 0
    again = limit.seconds_to_wait()
    assert again == 1 or time.monotonic() > started + 1
