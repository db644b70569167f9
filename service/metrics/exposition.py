"""The page that Prometheus scrapes, in its text format.

What is counted is written here: prometheus_client's exposition takes 5 µs a line, which for a hundred models is 50 ms.
What a line begins with never changes, and is kept.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from operator import add
from pathlib import Path
from typing import Any

from prometheus_client import Metric
from prometheus_client.registry import Collector

from service.inference.version import State
from service.lifecycle.registry import Registry
from service.metrics.instruments import Family, Histograms
from service.metrics.store import Series, Sums, Totals
from service.runtime.cgroup import limited_memory
from service.security.api_keys import ApiKeys

# What is asked for only when the page is, and so never outlives what it is about.


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One metric; as prometheus_client's own, but for the time that those take. `name` is without the `_total` that
    Prometheus wants behind a counter's. `samples`: label values, in the order of the names, and value."""

    name: str
    documentation: str
    label_names: Sequence[str] = ()
    type: str = "gauge"
    samples: list[tuple[tuple[str, ...], float]] = field(default_factory=list)

    @classmethod
    def of(cls, name: str, documentation: str, value: float, kind: str = "gauge") -> "Snapshot":
        """Without labels."""
        return cls(name, documentation, type=kind, samples=[((), value)])

    @property
    def sample_name(self) -> str:
        return self.name + "_total" * (self.type == "counter")

    def add(self, labels: tuple[str, ...], value: float) -> None:
        self.samples.append((labels, value))

    def labelled(self, labels: Sequence[str]) -> Iterable[tuple[str, str]]:
        return zip(self.label_names, labels, strict=True)

    def metric(self) -> Metric:
        metric = Metric(self.name, self.documentation, self.type)
        for labels, value in self.samples:
            metric.add_sample(self.sample_name, dict(self.labelled(labels)), value)
        return metric


# How unlike their reference the last rows of each version are.


def drift_metrics(registry: Registry) -> Iterator[Snapshot]:
    """Of the versions that are loaded and have a reference."""
    version = ("model", "version")
    rows = Snapshot("serving_drift_window_rows", "Rows in the window that drift is told of.", version)
    psi = Snapshot(
        "serving_drift_psi",
        "Population stability index of the window against the reference, beyond what chance makes of it.",
        (*version, "feature"),
    )
    shift = Snapshot(
        "serving_drift_shift",
        "From -1, every row of the window below the reference, to 1, every row above it.",
        (*version, "feature"),
    )
    for loaded in registry.loaded():
        if loaded.drift is None:
            continue
        labels = (loaded.model, loaded.version_text)
        now = loaded.drift.now()
        rows.add(labels, float(now.rows))
        for each in now.features:
            psi.add((*labels, each.feature), each.psi)
            if each.shift is not None:
                shift.add((*labels, each.feature), each.shift)
    yield from (rows, psi, shift)


# What the worker processes take of the machine, as Linux's /proc tells (proc_pid_stat(5)).

PROC = Path("/proc")

# Fields of /proc/PID/stat, counted from the one behind the name: that may hold blanks and brackets.
_STATE = 0
_OWN_TICKS = slice(11, 13)
_ENDED_CHILDRENS_TICKS = slice(13, 15)
_ALL_TICKS = slice(11, 15)
_START_TICKS = 19
_RESIDENT_PAGES = 21


@dataclass(frozen=True, slots=True)
class Usage:
    """Of all processes together. `last_start`: when the youngest was started, in seconds since 1970."""

    cpu_seconds: float
    resident_bytes: float
    open_files: float
    last_start: float


def usage(living: Sequence[int], parent: int | None) -> Usage | None:
    """`parent` started them all; None where it had other children, too. None where there is no /proc to ask."""
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
    """Of these processes, and of those that the parent has seen end: so it never falls."""
    while True:
        of_ended = _ticks(parent, _ENDED_CHILDRENS_TICKS) if parent else 0
        total = of_ended + sum(_ticks(pid, _ALL_TICKS) for pid in pids)
        # If one ends meanwhile, it is counted twice or not at all.
        if not parent or _ticks(parent, _ENDED_CHILDRENS_TICKS) == of_ended:
            return total


def _ticks(pid: int, which: slice) -> int:
    return sum(map(int, _stat(pid)[which]))


def _stat(pid: int) -> list[str]:
    """Empty for a process that is not there any more."""
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


Label = tuple[str, str]


class Page(Collector):
    """`registry`: shown are its versions' series, their states, and the processes; without it every series, alone."""

    def __init__(
        self,
        families: Sequence[Family[Any]],
        totals: Totals,
        registry: Registry | None = None,
        api_keys: ApiKeys | None = None,
    ) -> None:
        self._families = families
        self._totals = totals
        self._registry = registry
        self._api_keys = api_keys
        self._heads: dict[int, list[str]] = {}
        self._asked_heads: dict[tuple[str, ...], str] = {}

    def text(self) -> bytes:
        sums = self._totals.sums()
        lines = []
        heads = {}
        for family, shown in self._counted(sums):
            lines += _title(family.name, family.type, family.documentation)
            for series in shown:
                # Kept as long as they are shown.
                heads[series.number] = self._heads.get(series.number) or [
                    _head(name, labels) for name, labels in _samples(family, series)
                ]
                lines += map(add, heads[series.number], map(repr, _values(family, series, sums)))
        self._heads = heads
        asked_heads = {}
        for asked in self._asked(sums):
            lines += _title(asked.name, asked.type, asked.documentation)
            for labels, value in asked.samples:
                key = (asked.name, *labels)
                head = self._asked_heads.get(key) or _head(asked.sample_name, asked.labelled(labels))
                asked_heads[key] = head
                lines.append(head + repr(value))
        self._asked_heads = asked_heads
        return ("\n".join(lines) + "\n").encode(errors="replace")

    def collect(self) -> Iterator[Metric]:
        """The same for prometheus_client's tools."""
        sums = self._totals.sums()
        for family, shown in self._counted(sums):
            metric = Metric(family.name, family.documentation, family.type)
            for series in shown:
                for (name, labels), value in zip(_samples(family, series), _values(family, series, sums), strict=True):
                    metric.add_sample(name, dict(labels), value)
            yield metric
        for asked in self._asked(sums):
            yield asked.metric()

    def _counted(self, sums: Sums) -> Iterator[tuple[Family[Any], Iterable[Series]]]:
        """The series of each family, without those of versions that the registry does not know."""
        if self._registry is None:
            for family in self._families:
                yield family, sums.series.get(family.name, ())
            return
        statuses = self._registry.statuses()
        # As labels; and the one of requests that found no version.
        versions = {("", ""), *((model, str(version)) for model, found in statuses.items() for version in found)}
        for family in self._families:
            series: Iterable[Series] = sums.series.get(family.name, ())
            if family.label_names[:2] == ("model", "version"):
                series = (one for one in series if one.labels[:2] in versions)
            yield family, series

    def _asked(self, sums: Sums) -> Iterator[Snapshot]:
        if self._registry is not None:
            yield from _states(self._registry)
            yield from _health(self._registry, sums)
            yield Snapshot.of(
                "serving_api_keys_valid",
                "0 while what the file of API keys says is wrong and does not count.",
                float(self._api_keys is None or self._api_keys.is_valid),
            )
            yield from drift_metrics(self._registry)
            yield from _processes(sums, self._totals.parent)
            yield from _memory()


def _samples(family: Family[Any], series: Series) -> Iterator[tuple[str, list[Label]]]:
    """Name and labels of each line of a series."""
    labels = list(zip(family.label_names, series.labels, strict=True))
    if isinstance(family, Histograms):
        for bound in [*map(repr, map(float, family.bounds)), "+Inf"]:
            yield family.name + "_bucket", [*labels, ("le", bound)]
        yield family.name + "_count", labels
        yield family.name + "_sum", labels
    else:
        yield family.name + "_total" * (family.type == "counter"), labels


def _values(family: Family[Any], series: Series, sums: Sums) -> Sequence[float]:
    """The values of those lines. A bucket on the page holds all that the buckets before it hold, too."""
    values = sums.values[series.first : series.end]
    if not isinstance(family, Histograms):
        return values
    buckets = list(accumulate(values[:-1]))
    return [*buckets, buckets[-1], values[-1]]


def _health(registry: Registry, sums: Sums) -> Iterator[Snapshot]:
    """The least of all processes: each judges for itself."""
    unhealthy = {
        series.labels for series in sums.series.get("serving_model_unhealthy_workers", ()) if sums.values[series.first]
    }
    healthy = Snapshot(
        "serving_model_healthy", "0 while a worker process finds that a version hangs.", ("model", "version")
    )
    for model, versions in registry.statuses().items():
        for version, status in versions.items():
            if status.state is State.AVAILABLE:
                labels = (model, str(version))
                healthy.add(labels, float(labels not in unhealthy))
    yield healthy


def _states(registry: Registry) -> Iterator[Snapshot]:
    version_labels = ("model", "version")
    states = Snapshot("serving_model_state", "1 for the state that a version is in.", (*version_labels, "state"))
    seconds = Snapshot("serving_model_load_seconds", "How long loading took.", version_labels)
    for model, versions in registry.statuses().items():
        for version, status in versions.items():
            for state in State:
                states.add((model, str(version), state), float(status.state is state))
            if status.state is State.AVAILABLE:
                seconds.add((model, str(version)), status.load_seconds)
    yield states
    yield seconds
    names = Snapshot("serving_model_label", "1 for the version that a label names.", (*version_labels, "label"))
    for model, labels in registry.labels().items():
        for label, number in labels.items():
            names.add((model, str(number), label), 1.0)
    yield names
    yield Snapshot.of(
        "serving_models_config_valid",
        "0 while what models.toml says is wrong and does not count.",
        float(not registry.policies_error),
    )


def _processes(sums: Sums, parent: int | None) -> Iterator[Snapshot]:
    yield Snapshot.of("serving_workers", "Worker processes that live.", float(len(sums.living)))
    used = usage(sums.living, parent)
    if used is None:
        return
    yield Snapshot.of(
        "serving_process_cpu_seconds",
        "CPU time of all worker processes, also of those that ended.",
        used.cpu_seconds,
        "counter",
    )
    yield Snapshot.of(
        "serving_process_resident_memory_bytes",
        "Resident memory of all worker processes; what they share counts for each.",
        used.resident_bytes,
    )
    yield Snapshot.of("serving_process_open_fds", "Open files of all worker processes.", used.open_files)
    yield Snapshot.of(
        "serving_process_start_time_seconds",
        "When the youngest worker process was started, in seconds since 1970.",
        used.last_start,
    )


def _memory() -> Iterator[Snapshot]:
    """Without a sample where there is no limit."""
    limit = Snapshot("serving_memory_limit_bytes", "Memory that the container may use.")
    used = Snapshot("serving_memory_used_bytes", "Memory that it uses, without files that can be read again.")
    if (memory := limited_memory()) is not None:
        limit.add((), memory.limit)
        used.add((), memory.used)
    yield limit
    yield used


def _title(name: str, kind: str, documentation: str) -> list[str]:
    name += "_total" * (kind == "counter")
    return [f"# HELP {name} {documentation}", f"# TYPE {name} {kind}"]


def _head(name: str, labels: Iterable[Label]) -> str:
    pairs = ",".join([f'{label}="{_escaped(value)}"' for label, value in sorted(labels)])
    return f"{name}{{{pairs}}} " if pairs else f"{name} "


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
