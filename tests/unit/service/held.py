"""Calls that hang until the test lets them go on."""

import threading

MAX_SECONDS = 10


class Held:
    def __init__(self) -> None:
        self._begun = threading.Semaphore(0)
        self._go_on = threading.Event()

    def __call__(self) -> None:
        self._begun.release()
        assert self._go_on.wait(MAX_SECONDS)

    def wait_for_calls(self, count: int = 1) -> None:
        for _ in range(count):
            assert self._begun.acquire(timeout=MAX_SECONDS)

    def release(self) -> None:
        self._go_on.set()

    def hold_again(self) -> None:
        self._go_on.clear()
