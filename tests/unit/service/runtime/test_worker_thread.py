import threading
import weakref

from service.runtime.worker_thread import Background

DEADLINE = 10


class Held:
    """Does its work once it may go on."""

    def __init__(self, max_queued: int = 10) -> None:
        self.done: list[str] = []
        self.go_on = threading.Event()
        self.background = Background("held", self.work, max_queued)

    def work(self, piece: str) -> None:
        assert self.go_on.wait(DEADLINE)
        self.done.append(piece)


def test_all_is_done_in_its_order_and_the_end_waits_for_it() -> None:
    held = Held()
    assert [held.background.offer(piece, 1) for piece in "abc"] == [True] * 3
    assert held.done == []
    held.go_on.set()
    held.background.close(DEADLINE)
    assert held.done == ["a", "b", "c"]


def test_what_is_too_much_is_not_taken_and_what_is_under_way_counts() -> None:
    held = Held(max_queued=10)
    assert held.background.offer("a", 6)
    assert not held.background.offer("b", 5)
    assert held.background.offer("c", 4)
    assert not held.background.offer("d", 1)
    held.go_on.set()
    held.background.close(DEADLINE)
    assert held.done == ["a", "c"]
    assert held.background.offer("e", 10)


def test_the_end_does_not_wait_for_ever() -> None:
    held = Held()
    held.background.offer("a", 1)
    held.background.close(0.01)
    assert held.done == []
    held.go_on.set()


def test_there_is_no_thread_before_there_is_something_to_do() -> None:
    background: Background[str] = Background("idle until asked", lambda _: None, 10)
    assert "idle until asked" not in {thread.name for thread in threading.enumerate()}
    background.offer("a", 1)
    assert "idle until asked" in {thread.name for thread in threading.enumerate()}
    background.close(DEADLINE)


def test_nothing_holds_on_to_what_is_done() -> None:
    class Piece:
        pass

    gone = threading.Event()
    background: Background[Piece] = Background("pieces", lambda _: None, 10)
    background.offer(piece := Piece(), 1)
    weakref.finalize(piece, gone.set)
    del piece
    # The thread waits for more.
    assert gone.wait(DEADLINE)
    background.close(DEADLINE)
