"""Metrics that are read at each scrape, so that no series outlives what it is about: the states, health and drift of
versions, and what the worker processes use of the machine."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from service.metrics.store import Sums
from service.runtime import build
from service.runtime.cgroup import limited_memory

VERSION = ("model", "version")


@dataclass(frozen=True, slots=True)
class Reading:
    """One metric. `name` lacks the `_total` of counters. `samples`: label values, in the order of the names, and the
    value."""

    name: str
    documentation: str
    label_names: Sequence[str] = ()
    type: str = "gauge"
    samples: list[tuple[tuple[str, ...], float]] = field(default_factory=list)

    @classmethod
    def of(cls, name: str, documentation: str, value: float, kind: str = "gauge") -> "Reading":
        """A metric without labels."""
        return cls(name, documentation, type=kind, samples=[((), value)])

    def add(self, labels: tuple[str, ...], value: float) -> None:
        self.samples.append((labels, value))


class Status(Protocol):
    """The state of a version. `state` is one of TensorFlow Serving's states."""

    @property
    def state(self) -> StrEnum: ...
    @property
    def load_seconds(self) -> float: ...


class FeatureDrift(Protocol):
    @property
    def feature(self) -> str: ...
    @property
    def psi(self) -> float: ...
    @property
    def shift(self) -> float | None: ...


class DriftNow(Protocol):
    @property
    def rows(self) -> int: ...
    @property
    def features(self) -> Iterable[FeatureDrift]: ...
    @property
    def expected_accuracy(self) -> float | None: ...
    @property
    def outliers(self) -> float | None: ...


class Drift(Protocol):
    def now(self) -> DriftNow: ...


class Card(Protocol):
    @property
    def accuracy(self) -> float | None: ...


class Observation(Protocol):
    @property
    def rows(self) -> int: ...
    @property
    def accuracy(self) -> float | None: ...
    @property
    def calibration_error(self) -> float | None: ...


class Folder(Protocol):
    @property
    def path(self) -> Path: ...


class Loaded(Protocol):
    @property
    def model(self) -> str: ...
    @property
    def version_text(self) -> str: ...
    @property
    def card(self) -> Card: ...
    @property
    def folder(self) -> Folder | None: ...
    @property
    def drift(self) -> Drift | None: ...
    @property
    def digest(self) -> int: ...


class Models(Protocol):
    """What the page needs of the registry of models."""

    @property
    def policies_error(self) -> str: ...
    def statuses(self) -> Mapping[str, Mapping[int, Status]]: ...
    def labels(self) -> Mapping[str, Mapping[str, int]]: ...
    def loaded(self) -> Iterable[Loaded]: ...


class Observed(Protocol):
    """What the page needs of the rows with feedback."""

    def of(self, version: Loaded) -> Observation: ...


class ApiKeys(Protocol):
    @property
    def is_valid(self) -> bool: ...


def escaped(value: str) -> str:
    """A label's value, as the page writes it."""
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def readings(
    models: Models, api_keys: ApiKeys | None, observed: Observed | None, sums: Sums, parent: int | None
) -> Iterator[Reading]:
    """All of them. `parent`: see `usage`."""
    yield _build()
    yield from _states(models)
    yield _health(models, sums)
    yield from _files(models, api_keys)
    yield from _drift(models)
    yield from _feedback(models, observed)
    yield from _processes(sums, parent)
    yield from _memory()


def _build() -> Reading:
    of = build.versions()
    reading = Reading("serving_build_info", "1; its labels are the versions.", tuple(of))
    reading.add(tuple(of.values()), 1.0)
    return reading


def _states(models: Models) -> Iterator[Reading]:
    states = Reading("serving_model_state", "1 for the state that a version is in.", (*VERSION, "state"))
    seconds = Reading("serving_model_load_seconds", "How long loading a version took.", VERSION)
    for model, version, status in _versions(models):
        for state in type(status.state):
            states.add((model, version, state), float(status.state is state))
        if _is_available(status):
            seconds.add((model, version), status.load_seconds)
    yield states
    yield seconds
    names = Reading("serving_model_label", "1 for the version that a label names.", (*VERSION, "label"))
    for model, labels in models.labels().items():
        for label, number in labels.items():
            names.add((model, str(number), label), 1.0)
    yield names


def _health(models: Models, sums: Sums) -> Reading:
    """Of a version in all processes: each process judges for itself."""
    unhealthy = {labels for labels, values in sums.of("serving_model_unhealthy_workers") if values[0]}
    healthy = Reading("serving_model_healthy", "0 while a version hangs in any worker process.", VERSION)
    for model, version, status in _versions(models):
        if _is_available(status):
            healthy.add((model, version), float((model, version) not in unhealthy))
    return healthy


def _files(models: Models, api_keys: ApiKeys | None) -> Iterator[Reading]:
    yield Reading.of(
        "serving_models_config_valid",
        "0 while models.toml is invalid and its previous content is in force.",
        float(not models.policies_error),
    )
    yield Reading.of(
        "serving_api_keys_valid",
        "0 while the file of API keys is invalid and its previous content is in force.",
        float(api_keys is None or api_keys.is_valid),
    )


def _drift(models: Models) -> Iterator[Reading]:
    """How much the last rows of each loaded version with a reference differ from it, and how often it is right."""
    card = Reading("serving_card_accuracy", "Accuracy on the test examples, as the model card states it.", VERSION)
    expected = Reading(
        "serving_expected_accuracy",
        "Share of the window's rows that are expected to be classified correctly, by their calibrated confidence.",
        VERSION,
    )
    outliers = Reading(
        "serving_drift_window_outliers", "Share of the window's rows with an outlier score above 1.", VERSION
    )
    rows = Reading("serving_drift_window_rows", "Rows in the window that is compared with the reference.", VERSION)
    psi = Reading(
        "serving_drift_psi",
        "Population stability index of the window against the reference, above what chance explains.",
        (*VERSION, "feature"),
    )
    shift = Reading(
        "serving_drift_shift",
        "Direction of drift: from -1, all rows of the window below the reference, to 1, all rows above it.",
        (*VERSION, "feature"),
    )
    for loaded in models.loaded():
        labels = (loaded.model, loaded.version_text)
        if loaded.card.accuracy is not None:
            card.add(labels, loaded.card.accuracy)
        if loaded.drift is None:
            continue
        now = loaded.drift.now()
        rows.add(labels, float(now.rows))
        for reading, value in ((expected, now.expected_accuracy), (outliers, now.outliers)):
            if value is not None:
                reading.add(labels, value)
        for each in now.features:
            psi.add((*labels, each.feature), each.psi)
            if each.shift is not None:
                shift.add((*labels, each.feature), each.shift)
    yield from (card, expected, rows, outliers, psi, shift)


def _feedback(models: Models, observed: Observed | None) -> Iterator[Reading]:
    """What the last rows with feedback say about each loaded version that has some."""
    rows = Reading("serving_observed_rows", "Last rows with feedback that the observed accuracy is about.", VERSION)
    accuracy = Reading("serving_observed_accuracy", "Share of these rows that were answered rightly.", VERSION)
    error = Reading(
        "serving_observed_calibration_error", "Mean difference of confidence and accuracy of these rows.", VERSION
    )
    for loaded in models.loaded():
        if observed is None:
            break
        observation = observed.of(loaded)
        labels = (loaded.model, loaded.version_text)
        if observation.rows:
            rows.add(labels, float(observation.rows))
        if observation.accuracy is not None:
            accuracy.add(labels, observation.accuracy)
        if observation.calibration_error is not None:
            error.add(labels, observation.calibration_error)
    yield from (rows, accuracy, error)


def _processes(sums: Sums, parent: int | None) -> Iterator[Reading]:
    yield Reading.of("serving_workers", "Living worker processes.", float(len(sums.living)))
    used = usage(sums.living, parent)
    if used is None:
        return
    yield Reading.of(
        "serving_process_cpu_seconds",
        "CPU time of all worker processes, including those that ended.",
        used.cpu_seconds,
        "counter",
    )
    yield Reading.of(
        "serving_process_resident_memory_bytes",
        "Resident memory of all worker processes; shared memory counts for each.",
        used.resident_bytes,
    )
    yield Reading.of("serving_process_open_fds", "Open files of all worker processes.", used.open_files)
    yield Reading.of(
        "serving_process_start_time_seconds",
        "Start of the youngest worker process, in seconds since 1970.",
        used.last_start,
    )


def _memory() -> Iterator[Reading]:
    """Without samples where there is no limit."""
    limit = Reading("serving_memory_limit_bytes", "Memory limit of the container or cgroup.")
    used = Reading("serving_memory_used_bytes", "Memory used in it, without files that can be read again.")
    if (memory := limited_memory()) is not None:
        limit.add((), memory.limit)
        used.add((), memory.used)
    yield limit
    yield used


def _versions(models: Models) -> Iterator[tuple[str, str, Status]]:
    for model, versions in models.statuses().items():
        for version, status in versions.items():
            yield model, str(version), status


def _is_available(status: Status) -> bool:
    return status.state == "AVAILABLE"


PROC = Path("/proc")

# Fields of /proc/PID/stat (proc_pid_stat(5)), counted from the one after the name, which may contain blanks and
# brackets.
_ENDED_CHILDRENS_TICKS = slice(13, 15)
_ALL_TICKS = slice(11, 15)
_START_TICKS = 19
_RESIDENT_PAGES = 21


@dataclass(frozen=True, slots=True)
class Usage:
    """What processes use together. `last_start`: of the youngest, in seconds since 1970."""

    cpu_seconds: float
    resident_bytes: float
    open_files: float
    last_start: float


def usage(living: Sequence[int], parent: int | None) -> Usage | None:
    """What the processes use; None without Linux's /proc.

    `parent` started all of them and nothing else; None if it has other children, too.
    """
    stats = {pid: fields for pid in living if (fields := _stat(pid))}
    if not stats:
        return None
    ticks_per_second = os.sysconf("SC_CLK_TCK")
    return Usage(
        cpu_seconds=_cpu_ticks(living, parent) / ticks_per_second,
        resident_bytes=sum(int(fields[_RESIDENT_PAGES]) for fields in stats.values()) * os.sysconf("SC_PAGE_SIZE"),
        open_files=sum(map(_open_files, stats)),
        last_start=max(int(fields[_START_TICKS]) for fields in stats.values()) / ticks_per_second + _boot_time(),
    )


def _cpu_ticks(pids: Sequence[int], parent: int | None) -> int:
    """Ticks of these processes and of the parent's ended children, so that the sum never falls."""
    while True:
        of_ended = _ticks(parent, _ENDED_CHILDRENS_TICKS) if parent else 0
        total = of_ended + sum(_ticks(pid, _ALL_TICKS) for pid in pids)
        # A process that ended meanwhile was counted twice or not at all: read again.
        if not parent or _ticks(parent, _ENDED_CHILDRENS_TICKS) == of_ended:
            return total


def _ticks(pid: int, which: slice) -> int:
    return sum(map(int, _stat(pid)[which]))


def _stat(pid: int) -> list[str]:
    """The fields; empty for a process that has ended."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _open_files(pid: int) -> int:
    try:
        return sum(1 for _ in (PROC / str(pid) / "fd").iterdir())
    except OSError:
        return 0


def _boot_time() -> float:
    for line in (PROC / "stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0
