"""Every metric of the service, and the page that Prometheus scrapes."""

from collections.abc import Callable
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry

from service.inference.batching import BatchObserver
from service.inference.shadow import ShadowObserver
from service.inference.version import LoadedVersion
from service.lifecycle.registry import Registry
from service.metrics.exposition import Page
from service.metrics.instruments import (
    Counter,
    Counters,
    Family,
    Gauges,
    Histogram,
    Histograms,
    OutlierScoreMetrics,
    PredictionMetrics,
)
from service.metrics.store import Totals
from service.runtime.deaths import METRIC
from service.runtime.shared_memory import SharedMemory, Store
from service.security.api_keys import ApiKeys

# Seconds. A small model takes 20 µs to run, a picture 10 ms to decode, a big one a second.
BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONFIDENCE_BUCKETS = tuple(step / 10 for step in range(1, 11))
# What is above 1 is unlike the training data.
OUTLIER_BUCKETS = (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 4, 8, 16)


class Metrics:
    """`memory`: where worker processes share what they count, so that each can show the sum, each in a slot; None for
    one that is alone.

    To be made in the process that counts, after the fork.
    """

    def __init__(self, registry: CollectorRegistry, memory: SharedMemory | None = None, slot: int = 0) -> None:
        memory = memory or SharedMemory()
        memory.enter(slot)
        store = Store(memory, slot)
        version = ("model", "version")
        call = (*version, "protocol", "verb")
        self.registry = registry
        self.totals = Totals(memory)
        self.requests = Counters(store, "serving_requests", "Requests answered, by status.", (*call, "status"))
        self.request_duration = Histograms(
            store, "serving_request_duration_seconds", "From a request's last byte to its answer.", call, BUCKETS
        )
        self.decode_seconds = Counters(
            store, "serving_decode_seconds", "Seconds spent turning requests into tensors.", version
        )
        self.encode_seconds = Counters(
            store, "serving_encode_seconds", "Seconds spent turning outputs into answers.", version
        )
        self.inference_duration = Histograms(
            store,
            "serving_inference_duration_seconds",
            "Running the model, without decoding and encoding.",
            (*version, "engine"),
            BUCKETS,
        )
        self.batch_size = Histograms(store, "serving_batch_size", "Rows run together.", version, BATCH_BUCKETS)
        self.queue_length = Gauges(store, "serving_queue_length", "Rows that wait for a busy model.", version)
        self.queue_wait = Histograms(
            store, "serving_queue_wait_seconds", "From a request's arrival at a model to its run.", version, BUCKETS
        )
        self.thread_queue_length = Gauges(store, "serving_thread_queue_length", "Requests that wait for a thread.", ())
        self.rejected = Counters(store, "serving_rejected", "Requests turned away, or given up, by why.", ("reason",))
        self.connections = Gauges(store, "serving_connections", "Open connections of clients.", ())
        self.predictions = Counters(
            store,
            "serving_prediction",
            "Predictions of models with labels, by the label that came first.",
            (*version, "label"),
        )
        self.confidence = Histograms(
            store, "serving_prediction_confidence", "The first label's score.", version, CONFIDENCE_BUCKETS
        )
        self.outlier_score = Histograms(
            store,
            "serving_outlier_score",
            "How unlike the training data a row is; above 1, it looks like nothing the model knows.",
            version,
            OUTLIER_BUCKETS,
        )
        self.load_failures = Counters(
            store, "serving_model_load_failures", "Tries to load a version that failed.", version
        )
        # Counted by the first process.
        self.deaths = Counters(
            store, METRIC, "Worker processes that died of a version; of several, a share for each.", version
        )
        self.unhealthy_workers = Gauges(
            store, "serving_model_unhealthy_workers", "Worker processes in which a version is unhealthy.", version
        )
        self.batch_contradictions = Counters(
            store,
            "serving_batch_contradictions",
            "Signatures said to have independent rows whose outputs have not a row for each: batched no more.",
            version,
        )
        self.shadow = Counters(
            store,
            "serving_shadow",
            "Requests that a shadow ran, too, by whether it agrees with the version that answered.",
            (*version, "agrees"),
        )
        self.shadow_failed = Counters(store, "serving_shadow_failed", "Requests that a shadow could not run.", version)
        self.shadow_dropped = Counters(
            store, "serving_shadow_dropped", "Requests that a busy shadow did not get.", version
        )
        self.tried_out = Counters(
            store,
            "serving_playground_runs",
            "Requests of the page that ran a version: neither predictions nor drift.",
            version,
        )
        self.log_dropped = Counters(
            store, "serving_log_dropped", "Lines of the log that could not be written, or not soon enough.", ()
        )
        self.capture_dropped = Counters(
            store, "serving_capture_dropped", "Requests that were to be captured and could not be.", ()
        )
        registry.register(Page(self.families, self.totals))

    @property
    def families(self) -> list[Family[Any]]:
        return [part for part in vars(self).values() if isinstance(part, Family)]

    # To find the instruments takes longer than to count. What was found is kept; models, versions, verbs and statuses
    # are few.

    @cache  # noqa: B019  # there is one instance, as long as the process
    def of_request(self, model: str, version: str, protocol: str, verb: str, status: int) -> "RequestMetrics":
        labels = (model, version, protocol, verb)
        return RequestMetrics(
            self.requests.labels(*labels, str(status)),
            self.request_duration.labels(*labels),
            self.decode_seconds.labels(model, version),
            self.encode_seconds.labels(model, version),
        )

    @cache  # noqa: B019
    def of_inference(self, model: str, version: int, engine: str) -> Histogram:
        return self.inference_duration.labels(model, str(version), engine)

    @cache  # noqa: B019
    def of_batch(self, model: str, version: int) -> Histogram:
        return self.batch_size.labels(model, str(version))

    def health_of(self, model: str, version: int) -> Callable[[bool], None]:
        """To be told whether a version that is loaded now is healthy, in this process."""
        gauge = self.unhealthy_workers.labels(model, str(version))
        gauge.set(0)
        return lambda is_healthy: gauge.set(not is_healthy)

    @cache  # noqa: B019
    def of_predictions(self, model: str, version: int) -> PredictionMetrics:
        labels = (model, str(version))
        return PredictionMetrics(self.predictions, self.confidence.labels(*labels), *labels)

    @cache  # noqa: B019
    def of_outlier_scores(self, model: str, version: int) -> OutlierScoreMetrics:
        return OutlierScoreMetrics(self.outlier_score.labels(model, str(version)))


class RequestMetrics:
    """Of requests with the same labels and status."""

    __slots__ = ("_decode", "_duration", "_encode", "_lock", "_requests")

    def __init__(self, requests: Counter, duration: Histogram, decode: Counter, encode: Counter) -> None:
        self._lock = requests.lock
        self._requests = requests.cells
        self._duration = duration
        self._decode = decode.cells
        self._encode = encode.cells

    def record(self, seconds: float, decode_seconds: float, encode_seconds: float) -> None:
        with self._lock:
            self._requests[0] += 1.0
            self._duration.observe_locked(seconds)
            self._decode[0] += decode_seconds
            self._encode[0] += encode_seconds


class BatchMetrics(BatchObserver):
    """One version's batching, as metrics."""

    def __init__(self, metrics: Metrics, model: str, version: int) -> None:
        labels = (model, str(version))
        self._size = metrics.batch_size.labels(*labels)
        self._wait = metrics.queue_wait.labels(*labels)
        self._length = metrics.queue_length.labels(*labels)
        self._contradictions = metrics.batch_contradictions
        self._labels = labels

    def ran(self, rows: int) -> None:
        self._size.observe(rows)

    def waited(self, seconds: float) -> None:
        self._wait.observe(seconds)

    def queued(self, rows: int) -> None:
        self._length.set(rows)

    def contradicted(self) -> None:
        self._contradictions.labels(*self._labels).inc()


class ShadowMetrics(ShadowObserver):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def compared(self, shadow: LoadedVersion, agrees: bool) -> None:
        self._metrics.shadow.labels(shadow.model, shadow.version_text, str(agrees).lower()).inc()

    def failed(self, shadow: LoadedVersion) -> None:
        self._metrics.shadow_failed.labels(shadow.model, shadow.version_text).inc()

    def dropped(self, shadow: LoadedVersion) -> None:
        self._metrics.shadow_dropped.labels(shadow.model, shadow.version_text).inc()


def scrape_page(metrics: Metrics, registry: Registry, api_keys: ApiKeys | None = None) -> Page:
    """What a scrape shows: the metrics of all worker processes, the states of the versions, and the processes."""
    return Page(metrics.families, metrics.totals, registry, api_keys)


def scrape_registry(metrics: Metrics, registry: Registry) -> CollectorRegistry:
    """The same for prometheus_client's tools."""
    page = CollectorRegistry()
    page.register(scrape_page(metrics, registry))
    return page
