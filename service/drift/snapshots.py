"""Daily snapshots of the drift windows: a JSON file a day and version, for notebooks.

One process writes them, whichever gets the lock on the folder; when it ends, the kernel gives the lock to the next.
"""

import logging
import os
import re
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import msgspec

from service.drift.card import Card
from service.drift.monitor import MIN_ROWS, Counted, Drift

# How often the file of the day is written anew, if rows came since.
PERIOD_SECONDS = 600
# Files of earlier days are removed.
KEPT_DAYS = 30

_LOCK = ".lock"
_FILE = re.compile(r".+-\d+-(\d{4}-\d\d-\d\d)\.json")

logger = logging.getLogger(__name__)


class Watched(Protocol):
    """What is written of a loaded version."""

    @property
    def model(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def card(self) -> Card: ...
    @property
    def drift(self) -> Drift | None: ...


class Row(msgspec.Struct, frozen=True):
    """A feature in a snapshot. `edges`, `labels`, `reference`: as in FeatureBins; `counts`: the window's rows in these
    bins, `nan`: those without a number. The rest is the version's, and the same in each row."""

    timestamp: datetime
    model: str
    version: int
    rows: int
    feature: str
    psi: float
    shift: float | None
    edges: list[float] | None
    labels: list[list[str]] | None
    counts: list[int]
    nan: int
    reference: list[float]
    expected_accuracy: float | None
    card_accuracy: float | None
    outliers: float | None


_encoder = msgspec.json.Encoder()


class Snapshots:
    """Writes MODEL-VERSION-YEAR-MONTH-DAY.json into the folder, by the days of UTC."""

    def __init__(
        self,
        folder: Path,
        loaded: Callable[[], Iterable[Watched]],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._folder = folder
        self._loaded = loaded
        self._clock = clock
        self._lock: int | None = None
        # Rows that each version had ever seen when it was written.
        self._totals: dict[tuple[str, int], int] = {}
        self._is_failing = False
        self._writing = threading.Lock()

    def start(self) -> None:
        threading.Thread(target=self._write_for_ever, name="drift-snapshots", daemon=True).start()

    def write(self) -> None:
        """Write what has changed, if this process is the one that does, and remove what is too old. Raises OSError."""
        if not self._is_the_writer():
            return
        now = self._clock()
        for loaded in self._loaded():
            if loaded.drift is None:
                continue
            counted = loaded.drift.counted()
            key = loaded.model, loaded.version
            if counted.now.rows >= MIN_ROWS and counted.total != self._totals.get(key):
                name = f"{quote(loaded.model, safe='')}-{loaded.version}-{now:%Y-%m-%d}.json"
                self._replace(name, _encoder.encode(rows_of(loaded, counted, now)))
                self._totals[key] = counted.total
        self._remove_older_than(now.date() - timedelta(days=KEPT_DAYS))

    def close(self) -> None:
        """Write what came since, and leave the rest to another process."""
        self._try_to_write()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _write_for_ever(self) -> None:
        pause = threading.Event()
        while not pause.wait(PERIOD_SECONDS):
            self._try_to_write()

    def _try_to_write(self) -> None:
        try:
            with self._writing:
                self.write()
        # The thread must go on: the disk may be full for a while.
        except Exception as error:
            if not self._is_failing:
                logger.error("%s: no snapshots of drift are written: %s", self._folder, error)
            self._is_failing = True
        else:
            if self._is_failing:
                logger.info("%s: snapshots of drift are written again", self._folder)
            self._is_failing = False

    def _is_the_writer(self) -> bool:
        if self._lock is None:
            lock = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                flock(lock, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return False
            self._lock = lock
        return True

    def _replace(self, name: str, content: bytes) -> None:
        part = self._folder / f".{name}.part"
        part.write_bytes(content)
        part.replace(self._folder / name)

    def _remove_older_than(self, first: date) -> None:
        for path in self._folder.iterdir():
            found = _FILE.fullmatch(path.name)
            # A day that no calendar has is not ours.
            with suppress(ValueError):
                if found and date.fromisoformat(found[1]) < first:
                    path.unlink(missing_ok=True)


def rows_of(loaded: Watched, counted: Counted, now: datetime) -> list[Row]:
    """One for each feature."""
    return [
        Row(
            now,
            loaded.model,
            loaded.version,
            counted.now.rows,
            bins.feature,
            drift.psi,
            drift.shift,
            None if bins.edges is None else list(bins.edges),
            None if bins.labels is None else [list(each) for each in bins.labels],
            list(counts[:-1]),
            counts[-1],
            list(bins.shares),
            counted.now.expected_accuracy,
            loaded.card.accuracy,
            counted.now.outliers,
        )
        for bins, counts, drift in zip(counted.bins, counted.counts, counted.now.features, strict=True)
    ]
