"""Adds up what all processes have counted. Where a store has which series is kept: next time only new ones are read."""

import os
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.series.folder import GAUGE, SharedFile, shared_files
from service.series.store import Key, Store, parse_key, records

Positions = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Its sums are `values[first:end]`. `key`: kind, metric, label values."""

    key: Key
    number: int
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Sums:
    """`series`: by metric, those that a store has. `ended`: processes whose counts nobody has taken in yet."""

    values: Sequence[float]
    series: Mapping[str, Sequence[Series]]
    living: Sequence[int]
    ended: Sequence[int]


@dataclass
class _Reading:
    """What was read of one store up to `end`: its series, and where their cells begin."""

    end: int = 0
    series: list[Series] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)
    # By whether gauges are left out.
    places: dict[bool, "_Places"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Places:
    """`sums[i]` takes what the store has in `cells[i]`; `series`: the numbers of those that it has."""

    sums: Positions
    cells: Positions
    series: Positions


class Totals:
    """`folder`: where the stores of all processes are; None for a process that is alone with its own."""

    def __init__(self, store: Store, folder: Path | None) -> None:
        self._store = store
        self._folder = folder
        self._lock = threading.Lock()
        self._series: dict[bytes, Series] = {}
        self._size = 0
        self._readings: dict[str, _Reading] = {}
        # Shared files are made by the children of one process that does nothing else.
        self.parent = os.getppid() if folder else None

    def sums(self) -> Sums:
        with self._lock:
            if self._folder is None:
                return self._sums([SharedFile(str(os.getpid()), memoryview(b"".join(self._store.areas)), True)])
            with shared_files(self._folder) as files:
                return self._sums(list(files))

    def _sums(self, files: Sequence[SharedFile]) -> Sums:
        self._readings = {file.name: self._readings.get(file.name) or _Reading() for file in files}
        for file in files:
            self._read(self._readings[file.name], file.area)
        values = np.zeros(self._size)
        is_there = np.zeros(len(self._series), dtype=bool)
        for file in files:
            places = _places(self._readings[file.name], without_gauges=not file.is_locked)
            values[places.sums] += np.frombuffer(file.area)[places.cells]
            is_there[places.series] = True
        series = defaultdict(list)
        for one, shown in zip(self._series.values(), is_there.tolist(), strict=True):
            if shown:
                series[one.key[1]].append(one)
        return Sums(values.tolist(), series, _pids(files, living=True), _pids(files, living=False))

    def _read(self, reading: _Reading, area: memoryview) -> None:
        for record in records(area, reading.end):
            series = self._series.get(record.key)
            if series is None:
                try:
                    key = parse_key(record.key)
                except ValueError:
                    return
                series = Series(key, len(self._series), self._size, self._size + record.size)
                self._series[record.key] = series
                self._size = series.end
            reading.series.append(series)
            reading.cells.append(record.first)
            reading.end = record.end
            reading.places.clear()


def _places(reading: _Reading, *, without_gauges: bool) -> _Places:
    if without_gauges not in reading.places:
        wanted = [
            (series.first, cell, series.end - series.first, series.number)
            for series, cell in zip(reading.series, reading.cells, strict=True)
            if not (without_gauges and series.key[0] == GAUGE)
        ]
        sums, cells, sizes, numbers = np.array(wanted, np.intp).reshape(-1, 4).T
        # Of a series of three cells 0, 1, 2, and so on.
        steps = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        reading.places[without_gauges] = _Places(
            np.repeat(sums, sizes) + steps, np.repeat(cells, sizes) + steps, numbers
        )
    return reading.places[without_gauges]


def _pids(files: Iterable[SharedFile], *, living: bool) -> list[int]:
    return [file.pid for file in files if file.pid is not None and file.is_locked == living]
