import threading
import weakref

from service.runtime.worker_thread import WorkerThread

DEADLINE = 10


class Held:
    """Does its work once it may go on."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.go_on = threading.Event()
        self.thread = WorkerThread("held", self.work, max_queued=10)

    def work(self, piece: str) -> None:
        assert self.go_on.wait(DEADLINE)
        self.done.append(piece)


def test_full_queue_takes_no_more_and_close_waits_for_its_pieces() -> None:
    held = Held()
    assert "held" not in {thread.name for thread in threading.enumerate()}
    offers = {"a": 6, "b": 5, "c": 3, "d": 1, "e": 1}
    assert [held.thread.offer(piece, weight) for piece, weight in offers.items()] == [True, False, True, True, False]
    assert "held" in {thread.name for thread in threading.enumerate()}
    assert held.done == []
    held.go_on.set()
    held.thread.close(DEADLINE)
    assert held.done == ["a", "c", "d"]
    assert held.thread.offer("f", 10)


def test_close_does_not_wait_for_ever() -> None:
    held = Held()
    held.thread.offer("a", 1)
    held.thread.close(0.01)
    assert held.done == []
    held.go_on.set()


def test_finished_pieces_are_released() -> None:
    class Piece:
        pass

    gone = threading.Event()
    thread: WorkerThread[Piece] = WorkerThread("pieces", lambda _: None, 10)
    thread.offer(piece := Piece(), 1)
    weakref.finalize(piece, gone.set)
    del piece
    # The thread waits for more.
    assert gone.wait(DEADLINE)
    thread.close(DEADLINE)
