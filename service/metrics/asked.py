"""What is asked for only when the page is, and so never outlives what it is about."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from prometheus_client import Metric


@dataclass(frozen=True, slots=True)
class Asked:
    """One metric; as prometheus_client's own, but for the time that those take. `name` is without the `_total` that
    Prometheus wants behind a counter's. `samples`: label values, in the order of the names, and value."""

    name: str
    documentation: str
    label_names: Sequence[str] = ()
    type: str = "gauge"
    samples: list[tuple[tuple[str, ...], float]] = field(default_factory=list)

    @classmethod
    def of(cls, name: str, documentation: str, value: float, kind: str = "gauge") -> "Asked":
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
