import threading
from collections.abc import Callable
from time import perf_counter

import pytest

from service.inference.deadline import Deadline, DeadlineExceeded, Stage
from service.inference.picture_memory import PictureMemory


class WatchedDeadline(Deadline):
    """`is_watched`: what it belongs to waits."""

    def __init__(self) -> None:
        super().__init__(perf_counter() + 60, "60 s")
        self.is_watched = threading.Event()

    def on_cancel(self, callback: Callable[[], object] | None) -> None:
        super().on_cancel(callback)
        self.is_watched.set()


class Waiting(threading.Thread):
    """A request that takes memory in a thread of its own."""

    def __init__(self, memory: PictureMemory, count: int) -> None:
        super().__init__(daemon=True)
        self.deadline = WatchedDeadline()
        self.share = memory.share(self.deadline)
        self.error: Exception | None = None
        self._count = count
        self.start()

    def run(self) -> None:
        try:
            self.share.take(self._count)
        except DeadlineExceeded as error:
            self.error = error

    def has_to_wait(self) -> bool:
        return self.deadline.is_watched.wait(10)

    def is_done(self) -> bool:
        self.join(10)
        return not self.is_alive()


@pytest.fixture
def memory() -> PictureMemory:
    return PictureMemory(100)


def test_shares_that_fit_need_not_wait(memory: PictureMemory) -> None:
    first, second = memory.share(None), memory.share(None)
    first.take(60)
    second.take(40)


def test_a_picture_larger_than_all_goes_alone(memory: PictureMemory) -> None:
    small = memory.share(None)
    small.take(1)
    large = Waiting(memory, 1000)
    assert large.has_to_wait()
    small.give_back()
    assert large.is_done()
    other = Waiting(memory, 1)
    assert other.has_to_wait()
    large.share.give_back()
    assert other.is_done()


def test_memory_is_given_in_the_order_of_requests(memory: PictureMemory) -> None:
    first = memory.share(None)
    first.take(90)
    large = Waiting(memory, 80)
    assert large.has_to_wait()
    # It would fit beside the first, but large ones would then wait for ever.
    small = Waiting(memory, 10)
    assert small.has_to_wait()
    first.give_back()
    assert large.is_done()
    assert small.is_done()


def test_nobody_waits_beyond_the_deadline(memory: PictureMemory) -> None:
    first = memory.share(None)
    first.take(90)
    large = Waiting(memory, 80)
    assert large.has_to_wait()
    small = Waiting(memory, 10)
    assert small.has_to_wait()
    assert large.deadline.stage == Stage.PICTURES
    large.deadline.cancel()
    assert large.is_done()
    assert isinstance(large.error, DeadlineExceeded)
    # Who waited behind it fits.
    assert small.is_done()
    assert small.error is None


def test_what_is_taken_again_takes_the_place_of_what_was(memory: PictureMemory) -> None:
    share = memory.share(None)
    share.take(60)
    share.take(70)
    memory.share(None).take(30)


def test_memory_of_an_expired_request_is_free_for_others(memory: PictureMemory) -> None:
    first = memory.share(None)
    first.take(100)
    expired = Waiting(memory, 50)
    assert expired.has_to_wait()
    expired.deadline.cancel()
    assert expired.is_done()
    expired.share.give_back()
    first.give_back()
    memory.share(None).take(100)
