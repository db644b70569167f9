"""Who gets a thread, when there are fewer than jobs. Jobs are held up at will; nothing is timed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from service.server.executor import Job, ThreadPool

SECONDS_AT_MOST = 10


@dataclass
class Bench:
    pool: ThreadPool
    order: list[str] = field(default_factory=list)
    began: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go_on: threading.Event = field(default_factory=threading.Event)
    ended: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def hold(self, line: str) -> Job:
        """A job that takes until `go_on`."""

        def work() -> None:
            self.began.release()
            assert self.go_on.wait(SECONDS_AT_MOST)
            self.ended.release()

        return self.pool.submit(line, work)

    def hold_all(self, line: str, threads: int) -> None:
        for _ in range(threads):
            self.hold(line)
        for _ in range(threads):
            assert self.began.acquire(timeout=SECONDS_AT_MOST)

    def note(self, line: str, what: str) -> Job:
        def work() -> None:
            self.order.append(what)
            self.ended.release()

        return self.pool.submit(line, work)

    def let_go(self, jobs: int) -> None:
        self.go_on.set()
        self.wait_for(jobs)

    def wait_for(self, jobs: int) -> None:
        for _ in range(jobs):
            assert self.ended.acquire(timeout=SECONDS_AT_MOST)


@contextmanager
def bench(threads: int, max_per_model: int) -> Iterator[Bench]:
    at = Bench(ThreadPool("test", threads, max_per_model))
    yield at
    at.go_on.set()
    at.pool.close()
    for thread in threads_of_the_pool():
        thread.join(SECONDS_AT_MOST)
        assert not thread.is_alive()


def threads_of_the_pool() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("test-")]


def test_jobs_begin_in_the_order_in_which_they_came() -> None:
    with bench(1, 10) as at:
        at.hold_all("a", 1)
        for number in "123456":
            at.note("a" if number in "135" else "b", number)
        at.let_go(7)
        assert at.order == list("123456")


def test_there_are_never_more_threads_than_there_may_be_nor_than_jobs() -> None:
    with bench(3, 3) as at:
        at.hold_all("a", 2)
        assert len(threads_of_the_pool()) == 2
        at.hold_all("a", 1)
        for _ in range(5):
            at.note("a", "waits")
        assert len(threads_of_the_pool()) == 3
        at.let_go(8)


def test_a_model_that_holds_all_it_may_leaves_threads_to_the_others() -> None:
    with bench(4, 3) as at:
        at.hold_all("hangs", 3)
        for _ in range(10):
            at.note("hangs", "hangs")
        for number in "123":
            at.note("other", number)
        at.wait_for(3)
        assert at.order == ["1", "2", "3"]
        assert (at.pool.size, at.pool.size_of("hangs"), at.pool.size_of("other")) == (13, 13, 0)
        at.let_go(13)


def test_what_was_dropped_does_not_begin_and_leaves_its_place() -> None:
    with bench(1, 1) as at:
        at.hold_all("a", 1)
        dropped = [at.note("a", "dropped"), at.note("b", "dropped")]
        at.note("a", "kept")
        for job in dropped:
            at.pool.drop(job)
            at.pool.drop(job)
        assert (at.pool.size, at.pool.size_of("a"), at.pool.size_of("b")) == (2, 2, 0)
        at.let_go(2)
        assert at.order == ["kept"]


def test_what_has_begun_is_not_dropped() -> None:
    with bench(1, 1) as at:
        held = at.hold("a")
        assert at.began.acquire(timeout=SECONDS_AT_MOST)
        at.pool.drop(held)
        assert at.pool.size == 1
        at.let_go(1)


def test_names_that_are_not_asked_for_any_more_are_forgotten() -> None:
    with bench(1, 1) as at:
        for number in range(100):
            at.note(f"model {number}", "")
        at.wait_for(100)
        at.hold_all("last", 1)
        assert list(at.pool._models) == ["last"]
        at.let_go(1)


def test_after_the_end_nothing_begins_any_more() -> None:
    with bench(1, 1) as at:
        at.hold_all("a", 1)
        at.note("a", "too late")
        at.pool.close()
    assert at.order == []
