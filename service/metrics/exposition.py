"""The page that Prometheus scrapes, in its text format.

What is counted is written here: prometheus_client's exposition takes 5 µs a line, which for a hundred models is 50 ms.
What a line begins with never changes, and is kept.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from operator import add
from typing import Any

from prometheus_client import Metric
from prometheus_client.registry import Collector

from service.inference.version import State
from service.lifecycle.registry import Registry
from service.metrics.asked import Asked
from service.metrics.drift import drift_metrics
from service.metrics.instruments import Family, Histograms
from service.metrics.processes import usage
from service.metrics.store import Series, Sums, Totals
from service.runtime.cgroup import limited_memory
from service.security.api_keys import ApiKeys

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

    def _asked(self, sums: Sums) -> Iterator[Asked]:
        if self._registry is not None:
            yield from _states(self._registry)
            yield from _health(self._registry, sums)
            yield Asked.of(
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


def _health(registry: Registry, sums: Sums) -> Iterator[Asked]:
    """The least of all processes: each judges for itself."""
    unhealthy = {
        series.labels for series in sums.series.get("serving_model_unhealthy_workers", ()) if sums.values[series.first]
    }
    healthy = Asked(
        "serving_model_healthy", "0 while a worker process finds that a version hangs.", ("model", "version")
    )
    for model, versions in registry.statuses().items():
        for version, status in versions.items():
            if status.state is State.AVAILABLE:
                labels = (model, str(version))
                healthy.add(labels, float(labels not in unhealthy))
    yield healthy


def _states(registry: Registry) -> Iterator[Asked]:
    version_labels = ("model", "version")
    states = Asked("serving_model_state", "1 for the state that a version is in.", (*version_labels, "state"))
    seconds = Asked("serving_model_load_seconds", "How long loading took.", version_labels)
    for model, versions in registry.statuses().items():
        for version, status in versions.items():
            for state in State:
                states.add((model, str(version), state), float(status.state is state))
            if status.state is State.AVAILABLE:
                seconds.add((model, str(version)), status.load_seconds)
    yield states
    yield seconds
    names = Asked("serving_model_label", "1 for the version that a label names.", (*version_labels, "label"))
    for model, labels in registry.labels().items():
        for label, number in labels.items():
            names.add((model, str(number), label), 1.0)
    yield names
    yield Asked.of(
        "serving_models_config_valid",
        "0 while what models.toml says is wrong and does not count.",
        float(not registry.policies_error),
    )


def _processes(sums: Sums, parent: int | None) -> Iterator[Asked]:
    yield Asked.of("serving_workers", "Worker processes that live.", float(len(sums.living)))
    used = usage(sums.living, parent)
    if used is None:
        return
    yield Asked.of(
        "serving_process_cpu_seconds",
        "CPU time of all worker processes, also of those that ended.",
        used.cpu_seconds,
        "counter",
    )
    yield Asked.of(
        "serving_process_resident_memory_bytes",
        "Resident memory of all worker processes; what they share counts for each.",
        used.resident_bytes,
    )
    yield Asked.of("serving_process_open_fds", "Open files of all worker processes.", used.open_files)
    yield Asked.of(
        "serving_process_start_time_seconds",
        "When the youngest worker process was started, in seconds since 1970.",
        used.last_start,
    )


def _memory() -> Iterator[Asked]:
    """Without a sample where there is no limit."""
    limit = Asked("serving_memory_limit_bytes", "Memory that the container may use.")
    used = Asked("serving_memory_used_bytes", "Memory that it uses, without files that can be read again.")
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
