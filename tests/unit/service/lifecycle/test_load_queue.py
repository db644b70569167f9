import threading

from service.lifecycle.loader import LoadQueue
from service.lifecycle.repository import Key

SECONDS_AT_MOST = 10
A, B, C = ("a", 1), ("b", 1), ("c", 1)


def test_everything_is_loaded_in_order_and_once() -> None:
    loaded: list[Key] = []
    queue = LoadQueue(loaded.append, threads=1)
    queue.add([B, A, B])
    queue.wait()
    assert loaded == [B, A]
    queue.add([A])
    queue.wait()
    assert loaded == [B, A, A]


def test_several_are_loaded_at_a_time_but_no_more_than_threads() -> None:
    both = threading.Barrier(2)
    loaded: list[Key] = []

    def load(key: Key) -> None:
        if key != C:
            both.wait(SECONDS_AT_MOST)
        loaded.append(key)

    queue = LoadQueue(load, threads=2)
    queue.add([A, B, C])
    queue.wait()
    assert set(loaded) == {A, B, C}


def test_what_is_being_loaded_is_not_loaded_beside_itself() -> None:
    started, go_on = threading.Event(), threading.Event()
    loaded: list[Key] = []

    def load(key: Key) -> None:
        loaded.append(key)
        started.set()
        go_on.wait(SECONDS_AT_MOST)

    queue = LoadQueue(load, threads=2)
    queue.add([A])
    started.wait(SECONDS_AT_MOST)
    queue.add([A])
    go_on.set()
    queue.wait()
    assert loaded == [A]


def test_nothing_to_load_is_nothing_to_wait_for() -> None:
    LoadQueue(lambda _key: None, threads=2).wait()
