"""When a version that could not be loaded is tried again."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 300.0

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Failure:
    """`fingerprint`: of the files as they were; `due`: when to try these again, by the clock."""

    fingerprint: int
    tries: int
    due: float


@dataclass
class Retries:
    """After 1, 2, 4 ... 300 seconds; at once where the files have changed."""

    clock: Callable[[], float] = time.monotonic
    _failures: dict[Key, Failure] = field(default_factory=dict)

    def failed(self, key: Key, fingerprint: int, reason: str) -> str:
        """The reason, with how often it was tried and when it will be again."""
        before = self._failures.get(key)
        tries = before.tries + 1 if before and before.fingerprint == fingerprint else 1
        pause = min(FIRST_PAUSE_SECONDS * 2 ** min(tries - 1, 30), LONGEST_PAUSE_SECONDS)
        self._failures[key] = Failure(fingerprint, tries, self.clock() + pause)
        times = "once" if tries == 1 else f"{tries} times"
        next_try = time.strftime("%H:%M:%S UTC", time.gmtime(time.time() + pause))
        return f"{reason} (tried {times}; next at {next_try}, or when its files change)"

    def leave_alone(self, key: Key, fingerprint: int) -> None:
        """Until its files change, or somebody forgets that it failed."""
        self._failures[key] = Failure(fingerprint, 1, math.inf)

    def is_due(self, key: Key, fingerprint: int) -> bool:
        failure = self._failures.get(key)
        return failure is None or failure.fingerprint != fingerprint or self.clock() >= failure.due

    def has_failed(self, key: Key) -> bool:
        """Whatever has become of its files since."""
        return key in self._failures

    def forget(self, key: Key) -> None:
        self._failures.pop(key, None)
