"""The page that Prometheus scrapes, in its text format.

It is written here because prometheus_client takes ten times as long, 70 ms for a hundred models (docs/adr/0033).
What a line begins with never changes, and is kept.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import accumulate
from operator import add
from typing import Any

from service.metrics import tensorflow_serving
from service.metrics.instruments import Family, Histograms
from service.metrics.scraped import VERSION, ApiKeys, Models, Observed, Reading, escaped, readings
from service.metrics.store import Sums, Totals

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Label = tuple[str, str]
Labels = tuple[str, ...]


class Page:
    """`models`: which versions have series, and the states to show. None: all series, and nothing else.
    `has_tensorflow_names`: whether there are series under TensorFlow Serving's names as well.

    A prometheus_client registry takes it as a collector.
    """

    def __init__(
        self,
        families: Sequence[Family[Any]],
        totals: Totals,
        models: Models | None = None,
        api_keys: ApiKeys | None = None,
        observed: Observed | None = None,
        *,
        has_tensorflow_names: bool = False,
    ) -> None:
        self._families = families
        self._totals = totals
        self._models = models
        self._api_keys = api_keys
        self._observed = observed
        self._has_tensorflow_names = has_tensorflow_names
        self._bounds = {family.name: family.bounds for family in families if isinstance(family, Histograms)}
        # As long as a series is shown.
        self._heads: dict[Hashable, list[str]] = {}

    def sums(self) -> Sums:
        """What all worker processes counted."""
        return self._totals.sums()

    def text(self) -> bytes:
        sums = self.sums()
        lines = []
        heads: dict[Hashable, list[str]] = {}
        for family, shown in self._counted(sums):
            lines += _title(family)
            for labels, values in shown:
                key = (family.name, *labels)
                heads[key] = self._heads.get(key) or [_head(*line) for line in _lines(family, labels)]
                lines += map(add, heads[key], map(repr, _shown_values(family, values)))
        for reading in self._read(sums):
            lines += _title(reading)
            for labels, value in reading.samples:
                key = (reading.name, *labels)
                heads[key] = self._heads.get(key) or [_head(*line) for line in _lines(reading, labels)]
                lines.append(heads[key][0] + repr(value))
        self._heads = heads
        if self._has_tensorflow_names and self._models is not None:
            lines += tensorflow_serving.lines(sums, self._bounds, self._models)
        return ("\n".join(lines) + "\n").encode(errors="replace")

    def collect(self) -> Iterable[Any]:
        """The page for prometheus_client's tools, which serving does without."""
        from prometheus_client.parser import text_string_to_metric_families

        return text_string_to_metric_families(self.text().decode())

    def _counted(self, sums: Sums) -> Iterator[tuple[Family[Any], Iterable[tuple[Labels, Sequence[float]]]]]:
        """Each family with its series, except those of versions that the service does not know any more."""
        # The empty one is for requests that found no version.
        known = {("", "")}
        if self._models is not None:
            known |= {(model, str(version)) for model, found in self._models.statuses().items() for version in found}
        for family in self._families:
            series = sums.of(family.name)
            if self._models is not None and family.label_names[:2] == VERSION:
                series = (one for one in series if one[0][:2] in known)
            yield family, series

    def _read(self, sums: Sums) -> Iterable[Reading]:
        if self._models is None:
            return ()
        return readings(self._models, self._api_keys, self._observed, sums, self._totals.parent)


def _title(metric: Family[Any] | Reading) -> list[str]:
    name = _sample_name(metric)
    return [f"# HELP {name} {metric.documentation}", f"# TYPE {name} {metric.type}"]


def _sample_name(metric: Family[Any] | Reading) -> str:
    return metric.name + "_total" * (metric.type == "counter")


def _lines(metric: Family[Any] | Reading, values: Labels) -> Iterator[tuple[str, list[Label]]]:
    """Name and labels of each line of a series."""
    labels = list(zip(metric.label_names, values, strict=True))
    if isinstance(metric, Histograms):
        for bound in [*map(repr, map(float, metric.bounds)), "+Inf"]:
            yield metric.name + "_bucket", [*labels, ("le", bound)]
        yield metric.name + "_count", labels
        yield metric.name + "_sum", labels
    else:
        yield _sample_name(metric), labels


def _shown_values(family: Family[Any], values: Sequence[float]) -> Sequence[float]:
    """The values of those lines. A bucket on the page includes all buckets before it."""
    if not isinstance(family, Histograms):
        return values
    buckets = list(accumulate(values[:-1]))
    return [*buckets, buckets[-1], values[-1]]


def _head(name: str, labels: Iterable[Label]) -> str:
    pairs = ",".join([f'{label}="{escaped(value)}"' for label, value in sorted(labels)])
    return f"{name}{{{pairs}}} " if pairs else f"{name} "
