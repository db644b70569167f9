"""Sums over what all worker processes counted. The places of series are kept, so that later only new ones are read."""

import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.runtime.shared_memory import SLOTS, Kind, SharedMemory, parse_series_key

Positions = NDArray[np.intp]

# The slot of counts, which outlive their process.
_ALWAYS = SLOTS


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """A metric with one set of labels. Its sums are `values[first:end]`."""

    metric: str
    labels: tuple[str, ...]
    number: int
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Sums:
    """`series`: by metric, those that a process has. `living`: the processes that count."""

    values: Sequence[float]
    series: Mapping[str, Sequence[Series]]
    living: Sequence[int]

    def of(self, metric: str) -> Iterator[tuple[tuple[str, ...], Sequence[float]]]:
        """Labels and sums of each series: one sum, or those of a histogram's cells."""
        for series in self.series.get(metric, ()):
            yield series.labels, self.values[series.first : series.end]


@dataclass(frozen=True, slots=True)
class _Places:
    """`sums[i]` gets the double `cells[i]` of the memory while slot `slots[i]` has a worker. `series` and
    `series_slots` say the same of the series of each area."""

    sums: Positions
    cells: Positions
    slots: Positions
    series: Positions
    series_slots: Positions


class Totals:
    """Adds up the cells of all processes."""

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        self._numbers = np.frombuffer(memory.view, np.float64)
        self._lock = threading.Lock()
        self._end = 0
        self._series: dict[bytes, Series] = {}
        self._size = 0
        # For each area: its first sum, its first cell, how many there are, the series' number, the slot.
        self._areas: list[tuple[int, int, int, int, int]] = []
        self._places = _places([])
        # The first process only forks workers. A process that is alone may have other children.
        self.parent = memory.first_process if memory.first_process != os.getpid() else None

    def sums(self) -> Sums:
        with self._lock:
            if self._memory.end != self._end:
                self._read()
                self._places = _places(self._areas)
            places = self._places
            pids = self._memory.pids()
            lives = np.array([*pids, 1], bool)
            cells = np.where(lives[places.slots], self._numbers[places.cells], 0.0)
            values = np.bincount(places.sums, cells, self._size)
            is_there = np.zeros(len(self._series), bool)
            is_there[places.series[lives[places.series_slots]]] = True
            series = defaultdict(list)
            for one, shown in zip(self._series.values(), is_there.tolist(), strict=True):
                if shown:
                    series[one.metric].append(one)
            return Sums(values.tolist(), series, [pid for pid in pids if pid])

    def _read(self) -> None:
        for area in self._memory.areas(self._end):
            # An area that is being appended is read the next time.
            self._end = area.start + area.size
            if area.kind not in (Kind.COUNT, Kind.GAUGE):
                continue
            series = self._series.get(area.key)
            if series is None:
                metric, labels = parse_series_key(area.key)
                end = self._size + area.size // 8
                series = Series(metric, labels, len(self._series), self._size, end)
                self._series[area.key] = series
                self._size = end
            slot = area.owner if area.kind == Kind.GAUGE else _ALWAYS
            self._areas.append((series.first, area.start // 8, series.end - series.first, series.number, slot))


def _places(areas: Sequence[tuple[int, int, int, int, int]]) -> _Places:
    sums, cells, sizes, numbers, slots = np.array(areas, np.intp).reshape(-1, 5).T
    # 0, 1, 2 for a series of three cells, and so on.
    steps = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return _Places(
        np.repeat(sums, sizes) + steps, np.repeat(cells, sizes) + steps, np.repeat(slots, sizes), numbers, slots
    )
