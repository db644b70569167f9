"""Every metric of the service, and the page that Prometheus scrapes."""

import os
from collections.abc import Iterator
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from service.batcher import BatchObserver
from service.registry import Registry, State

# Seconds. A small model takes 20 µs to run, a picture 10 ms to decode, a big one a second.
BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONFIDENCE_BUCKETS = tuple(step / 10 for step in range(1, 11))


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        version = ("model", "version")
        call = (*version, "protocol", "verb")
        self.registry = registry
        self.requests = Counter(
            "serving_requests", "Requests answered, by status.", (*call, "status"), registry=registry
        )
        self.request_duration = Histogram(
            "serving_request_duration_seconds",
            "From a request's headers to its answer.",
            call,
            buckets=BUCKETS,
            registry=registry,
        )
        self.inference_duration = Histogram(
            "serving_inference_duration_seconds",
            "Running the model, without decoding and encoding.",
            (*version, "engine"),
            buckets=BUCKETS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "serving_batch_size", "Rows run together.", version, buckets=BATCH_BUCKETS, registry=registry
        )
        self.queue_length = Gauge(
            "serving_queue_length",
            "Rows that wait for a busy model.",
            version,
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.queue_wait = Histogram(
            "serving_queue_wait_seconds",
            "From a request's arrival at a model to its run.",
            version,
            buckets=BUCKETS,
            registry=registry,
        )
        self.rejected = Counter("serving_rejected", "Requests turned away unread.", ("reason",), registry=registry)
        self.predictions = Counter(
            "serving_prediction",
            "Predictions of models with labels, by the label that came first.",
            (*version, "label"),
            registry=registry,
        )
        self.confidence = Histogram(
            "serving_prediction_confidence",
            "The first label's score.",
            version,
            buckets=CONFIDENCE_BUCKETS,
            registry=registry,
        )

    # prometheus_client looks a label set up under a lock and checks it, each time: that costs more than to count. What
    # was looked up is kept; models, versions, verbs and statuses are few.

    @cache  # noqa: B019  # there is one instance, as long as the process
    def of_call(self, model: str, version: str, protocol: str, verb: str, status: int) -> tuple[Counter, Histogram]:
        labels = (model, version, protocol, verb)
        return self.requests.labels(*labels, str(status)), self.request_duration.labels(*labels)

    @cache  # noqa: B019
    def of_inference(self, model: str, version: int, engine: str) -> Histogram:
        return self.inference_duration.labels(model, str(version), engine)

    @cache  # noqa: B019
    def of_prediction(self, model: str, version: int, label: str) -> tuple[Counter, Histogram]:
        return self.predictions.labels(model, str(version), label), self.confidence.labels(model, str(version))


class BatchMetrics(BatchObserver):
    """One version's batching, as metrics."""

    def __init__(self, metrics: Metrics, model: str, version: int) -> None:
        labels = (model, str(version))
        self._size = metrics.batch_size.labels(*labels)
        self._wait = metrics.queue_wait.labels(*labels)
        self._length = metrics.queue_length.labels(*labels)

    def ran(self, rows: int) -> None:
        self._size.observe(rows)

    def waited(self, seconds: float) -> None:
        self._wait.observe(seconds)

    def queued(self, rows: int) -> None:
        self._length.set(rows)


class RegistryCollector(Collector):
    """The states of the versions, read from the registry when asked, so that no series outlives its version."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[GaugeMetricFamily]:
        states = GaugeMetricFamily(
            "serving_model_state",
            "1 for the state that a version is in.",
            labels=("model", "version", "state"),
        )
        seconds = GaugeMetricFamily("serving_model_load_seconds", "How long loading took.", labels=("model", "version"))
        for model, versions in self._registry.statuses().items():
            for version, status in versions.items():
                for state in State:
                    states.add_metric((model, str(version), state), float(status.state is state))
                if status.state is State.AVAILABLE:
                    seconds.add_metric((model, str(version)), status.load_seconds)
        yield states
        yield seconds


def scrape_registry(metrics: Metrics, registry: Registry) -> CollectorRegistry:
    """What a scrape shows: the metrics of all worker processes and the states of the versions.

    With several processes each writes to files in PROMETHEUS_MULTIPROC_DIR, and whichever is asked adds them up.
    """
    page = metrics.registry
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        page = CollectorRegistry()
        MultiProcessCollector(page)  # type: ignore[no-untyped-call]
    page.register(RegistryCollector(registry))
    return page
