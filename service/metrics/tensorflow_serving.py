"""The metrics that TensorFlow Serving has, too, under its names and in its form: for dashboards that were made for it.

They are derived at a scrape from what is counted anyway, over all versions of a model; the buckets are the service's.
https://github.com/tensorflow/serving/blob/master/tensorflow_serving/util/prometheus_exporter.cc
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from service.metrics.scraped import Models, escaped
from service.metrics.store import Sums

MICROS = 1e6
# By verb, as gRPC's are named there; REST's are in lower case. `infer` predicts.
_APIS = {
    "predict": "Predict",
    "classify": "Classify",
    "regress": "Regress",
    "multi_inference": "MultiInference",
    "infer": "Predict",
}
_CODES = {
    "200": "OK",
    "400": "INVALID_ARGUMENT",
    "401": "UNAUTHENTICATED",
    "403": "PERMISSION_DENIED",
    "404": "NOT_FOUND",
    "409": "ABORTED",
    "413": "RESOURCE_EXHAUSTED",
    "415": "UNIMPLEMENTED",
    "429": "RESOURCE_EXHAUSTED",
    "499": "CANCELLED",
    "500": "INTERNAL",
    "501": "UNIMPLEMENTED",
    "503": "UNAVAILABLE",
    "504": "DEADLINE_EXCEEDED",
}

Labels = tuple[tuple[str, str], ...]
# Values, or a histogram's cells, by labels.
Series = dict[Labels, list[float]]


def lines(sums: Sums, bounds: Mapping[str, Sequence[float]], models: Models) -> Iterator[str]:
    """`bounds`: of the histograms, by their names."""
    yield from _counters(":tensorflow:serving:request_count", _requests(sums))
    latency = _added(
        (
            (("model_name", model), ("API", _api(protocol, verb)), ("entrypoint", _entrypoint(protocol))),
            cells,
        )
        for (model, _, protocol, verb), cells in sums.of("serving_request_duration_seconds")
        if verb in _APIS
    )
    yield from _histograms(":tensorflow:serving:request_latency", latency, bounds["serving_request_duration_seconds"])
    runtime = _added(
        ((("model_name", model), ("API", "Predict"), ("runtime", "TF1")), cells)
        for (model, *_), cells in sums.of("serving_inference_duration_seconds")
    )
    yield from _histograms(":tensorflow:serving:runtime_latency", runtime, bounds["serving_inference_duration_seconds"])
    waits, sizes = (
        _added(((("model_name", model),), cells) for (model, _), cells in sums.of(name))
        for name in ("serving_queue_wait_seconds", "serving_batch_size")
    )
    session = ":tensorflow:serving:batching_session"
    yield from _histograms(f"{session}:queuing_latency", waits, bounds["serving_queue_wait_seconds"])
    yield from _histograms(f"{session}:processed_batch_size", sizes, bounds["serving_batch_size"], scale=1)
    yield from _counters(":tensorflow:core:graph_runs", {(): [sum(sum(cells[:-1]) for cells in sizes.values())]})
    attempts, latencies = _loads(sums, models)
    yield from _counters(":tensorflow:cc:saved_model:load_attempt_count", attempts)
    yield from _counters(":tensorflow:cc:saved_model:load_latency", latencies)


def _requests(sums: Sums) -> Series:
    return _added(
        ((("model_name", model), ("status", _CODES.get(status, "UNKNOWN"))), values)
        for (model, _, _, verb, status), values in sums.of("serving_requests")
        if verb in _APIS
    )


def _loads(sums: Sums, models: Models) -> tuple[Series, Series]:
    """Attempts by outcome, and how long those that succeeded took."""
    paths = {
        (loaded.model, loaded.version_text): str(loaded.folder.path) for loaded in models.loaded() if loaded.folder
    }
    attempts: Series = {
        (("model_path", paths.get((model, version), f"{model}/{version}")), ("status", "fail")): [*values]
        for (model, version), values in sums.of("serving_model_load_failures")
    }
    latencies: Series = {}
    statuses = models.statuses()
    for (model, version), path in paths.items():
        attempts[("model_path", path), ("status", "success")] = [1.0]
        latencies[(("model_path", path),)] = [statuses[model][int(version)].load_seconds * MICROS]
    return attempts, latencies


def _api(protocol: str, verb: str) -> str:
    return _APIS[verb] if _entrypoint(protocol) == "GRPC" else _APIS[verb].lower()


def _entrypoint(protocol: str) -> str:
    return "GRPC" if protocol.startswith("grpc") else "REST"


def _added(parts: Iterable[tuple[Labels, Sequence[float]]]) -> Series:
    """The sums of what has the same labels."""
    totals: Series = {}
    for labels, cells in parts:
        before = totals.get(labels)
        totals[labels] = [*cells] if before is None else [a + b for a, b in zip(before, cells, strict=True)]
    return totals


def _counters(name: str, series: Series) -> Iterator[str]:
    yield f"# TYPE {name} counter"
    for labels, (value,) in series.items():
        yield f"{name}{_braced(_pairs(labels))} {_number(value)}"


def _histograms(name: str, series: Series, bounds: Sequence[float], scale: float = MICROS) -> Iterator[str]:
    """`scale`: from the unit of bounds and sums to the one that is shown."""
    yield f"# TYPE {name} histogram"
    ends = [*(f'le="{bound * scale:g}"}} ' for bound in bounds), 'le="+Inf"} ']
    for labels, cells in series.items():
        counts = [int(count) for count in accumulate(cells[:-1])]
        pairs = _pairs(labels)
        begin = f"{name}_bucket{{{pairs},"
        yield from [f"{begin}{end}{count}" for end, count in zip(ends, counts, strict=True)]
        yield f"{name}_sum{{{pairs}}} {_number(cells[-1] * scale)}"
        yield f"{name}_count{{{pairs}}} {counts[-1]}"


def _pairs(labels: Labels) -> str:
    return ",".join([f'{name}="{escaped(value)}"' for name, value in labels])


def _braced(pairs: str) -> str:
    return f"{{{pairs}}}" if pairs else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
