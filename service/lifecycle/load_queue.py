"""Loads versions a few at a time."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable

Key = tuple[str, int]


class LoadQueue:
    """Its threads are there only while there is something to load, and no end of the process waits for them."""

    def __init__(self, load: Callable[[Key], None], threads: int) -> None:
        """`load` raises nothing."""
        self._load = load
        self._threads = threads
        self._changed = threading.Condition()
        self._waiting: deque[Key] = deque()
        self._under_way: set[Key] = set()
        self._running = 0

    def add(self, keys: Iterable[Key]) -> None:
        """In this order. What waits or is being loaded already is passed over."""
        with self._changed:
            for key in keys:
                if key not in self._under_way:
                    self._under_way.add(key)
                    self._waiting.append(key)
            for _ in range(min(self._threads - self._running, len(self._waiting))):
                self._running += 1
                threading.Thread(target=self._run, name="loader", daemon=True).start()

    def wait(self, seconds: float | None = None) -> bool:
        """Whether everything is loaded, by then at the latest."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._under_way, seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._running -= 1
                    return
                key = self._waiting.popleft()
            self._load(key)
            with self._changed:
                self._under_way.discard(key)
                self._changed.notify_all()


def newest_first(keys: list[Key]) -> list[Key]:
    """The newest of every model, for unversioned requests want them; then those before them, and so on."""
    newer: Counter[str] = Counter()
    ranked = []
    for model, version in sorted(keys, key=lambda key: -key[1]):
        ranked.append((newer[model], model, version))
        newer[model] += 1
    return [(model, version) for _, model, version in sorted(ranked)]
