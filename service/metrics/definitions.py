"""Every metric of the service."""

from collections.abc import Callable
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Protocol

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
from service.metrics.scraped import ApiKeys, Models, Observed
from service.metrics.store import Totals
from service.runtime import fetching
from service.runtime.deaths import METRIC
from service.runtime.shared_memory import SharedMemory, Store

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

# Seconds. A small model takes 20 µs to run, a picture 10 ms to decode, a big one a second.
BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONFIDENCE_BUCKETS = tuple(step / 10 for step in range(1, 11))
# A row above 1 is unlike the training data.
OUTLIER_BUCKETS = (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 4, 8, 16)


class Metrics:
    """The metrics that are counted. To be made in the process that counts, after the fork."""

    def __init__(
        self, registry: "CollectorRegistry | None" = None, memory: SharedMemory | None = None, slot: int = 0
    ) -> None:
        """`registry`: see the property. `memory`: where the worker processes count, each in its slot, so that each can
        show the sums; None for a process that is alone."""
        memory = memory or SharedMemory()
        memory.enter(slot)
        store = Store(memory, slot)
        version = ("model", "version")
        call = (*version, "protocol", "verb")
        self.totals = Totals(memory)
        self.requests = Counters(store, "serving_requests", "Requests, by response status.", (*call, "status"))
        self.request_duration = Histograms(
            store, "serving_request_duration_seconds", "From a request's last byte to its response.", call, BUCKETS
        )
        self.decode_seconds = Counters(
            store, "serving_decode_seconds", "Seconds spent decoding requests into tensors.", version
        )
        self.encode_seconds = Counters(
            store, "serving_encode_seconds", "Seconds spent encoding outputs into responses.", version
        )
        self.inference_duration = Histograms(
            store,
            "serving_inference_duration_seconds",
            "Time to run the model, without decoding and encoding.",
            # Of the signatures that the version has, so they are few.
            (*version, "engine", "signature"),
            BUCKETS,
        )
        self.batch_size = Histograms(store, "serving_batch_size", "Rows run together.", version, BATCH_BUCKETS)
        self.queue_length = Gauges(store, "serving_queue_length", "Rows that wait for a busy model.", version)
        self.queue_wait = Histograms(
            store, "serving_queue_wait_seconds", "From a request's arrival at a model to its run.", version, BUCKETS
        )
        self.thread_queue_length = Gauges(store, "serving_thread_queue_length", "Requests that wait for a thread.", ())
        self.rejected = Counters(store, "serving_rejected", "Requests rejected or given up, by reason.", ("reason",))
        self.connections = Gauges(store, "serving_connections", "Open client connections.", ())
        self.predictions = Counters(
            store,
            "serving_prediction",
            "Predictions of models with labels, by the best label.",
            (*version, "label"),
        )
        self.confidence = Histograms(
            store, "serving_prediction_confidence", "Score of the best label.", version, CONFIDENCE_BUCKETS
        )
        self.outlier_score = Histograms(
            store,
            "serving_outlier_score",
            "How unlike the training data a row is; above 1 it looks like nothing in it.",
            version,
            OUTLIER_BUCKETS,
        )
        self.feedback = Counters(
            store,
            "serving_feedback",
            "Rows whose right label was given, by whether it was the answer.",
            (*version, "outcome"),
        )
        self.confusions = Counters(
            store,
            "serving_confusions",
            "The same rows by the right label and the answered one, of versions with few labels.",
            (*version, "expected", "answered"),
        )
        self.load_failures = Counters(
            store, "serving_model_load_failures", "Failed attempts to load a version.", version
        )
        # Counted by the first process.
        self.deaths = Counters(
            store,
            METRIC,
            "Worker processes that died of a version; a share for each of several suspects.",
            version,
        )
        self.unhealthy_workers = Gauges(
            store, "serving_model_unhealthy_workers", "Worker processes in which a version hangs.", version
        )
        self.batch_contradictions = Counters(
            store,
            "serving_batch_contradictions",
            "Signatures whose outputs showed that their rows are not independent; they are no longer batched.",
            version,
        )
        self.shadow = Counters(
            store,
            "serving_shadow",
            "Requests that a shadow ran as well, by whether its outputs agree.",
            (*version, "agrees"),
        )
        self.shadow_failed = Counters(store, "serving_shadow_failed", "Requests that a shadow could not run.", version)
        self.shadow_dropped = Counters(
            store, "serving_shadow_dropped", "Requests that a shadow did not get because it was busy.", version
        )
        self.tried_out = Counters(
            store,
            "serving_playground_runs",
            "Requests from the playground that ran a version. No other metric counts them.",
            version,
        )
        self.log_dropped = Counters(
            store, "serving_log_dropped", "Log lines not written: a full disk, or a reader that is too slow.", ()
        )
        self.capture_dropped = Counters(
            store, "serving_capture_dropped", "Requests chosen for capture but not written.", ()
        )
        # Of the fetching process.
        self.store_last_listing = Gauges(
            store, fetching.LAST_LISTING, "When the object store was last listed, in seconds since 1970.", ()
        )
        self.store_failing = Gauges(
            store, fetching.FAILING, "1 while the object store fails, or a version in it cannot be fetched.", ()
        )
        self.store_failures = Counters(
            store, fetching.FAILURES, "Failed listings and fetches of the object store, by kind.", ("kind",)
        )
        self.store_fetched_bytes = Counters(store, fetching.FETCHED_BYTES, "Bytes fetched from the object store.", ())
        if registry is not None:
            self.registry = self._registered_in(registry)

    @cached_property
    def registry(self) -> "CollectorRegistry":
        """For prometheus_client's tools, which tests use and serving does without."""
        from prometheus_client import CollectorRegistry

        return self._registered_in(CollectorRegistry())

    def _registered_in(self, registry: "CollectorRegistry") -> "CollectorRegistry":
        registry.register(Page(self.families, self.totals))
        return registry

    @property
    def families(self) -> list[Family[Any]]:
        return [part for part in vars(self).values() if isinstance(part, Family)]

    # Finding the instruments takes longer than counting, so they are kept. There are few: models, versions, verbs,
    # statuses.

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
    def of_inference(self, model: str, version: int, engine: str, signature: str) -> Histogram:
        return self.inference_duration.labels(model, str(version), engine, signature)

    @cache  # noqa: B019
    def of_batch(self, model: str, version: int) -> Histogram:
        return self.batch_size.labels(model, str(version))

    def health_of(self, model: str, version: int) -> Callable[[bool], None]:
        """A function to call with whether a version is healthy in this process. It is at first."""
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
    """The metrics of requests with the same labels and status."""

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


class BatchMetrics:
    """The metrics of one version's batches; a BatchObserver."""

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


class Version(Protocol):
    @property
    def model(self) -> str: ...
    @property
    def version_text(self) -> str: ...


class ShadowMetrics:
    """The metrics of shadows; a ShadowObserver."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def compared(self, shadow: Version, agrees: bool) -> None:
        self._metrics.shadow.labels(shadow.model, shadow.version_text, str(agrees).lower()).inc()

    def failed(self, shadow: Version) -> None:
        self._metrics.shadow_failed.labels(shadow.model, shadow.version_text).inc()

    def dropped(self, shadow: Version) -> None:
        self._metrics.shadow_dropped.labels(shadow.model, shadow.version_text).inc()


def scrape_page(
    metrics: Metrics,
    models: Models,
    api_keys: ApiKeys | None = None,
    observed: Observed | None = None,
    *,
    has_tensorflow_names: bool = False,
) -> Page:
    """What a scrape shows: what all worker processes counted, the states of the versions, what feedback says of them,
    and the processes."""
    return Page(metrics.families, metrics.totals, models, api_keys, observed, has_tensorflow_names=has_tensorflow_names)
