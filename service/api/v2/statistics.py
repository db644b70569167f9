"""The extension statistics: what the metrics of all worker processes say of each version.

The stages of an answered request add up: success = compute_input + queue + compute_infer + compute_output.
"""

from collections import defaultdict
from collections.abc import Mapping

from prometheus_client.registry import Collector

from service.inference.version import State
from service.lifecycle.registry import Registry

# What counts as a request for inference, whichever protocol it came by.
_VERBS = ("infer", "predict", "classify", "regress")

Sums = Mapping[str, float]


def statistics(
    registry: Registry, scraped: Collector, model: str | None = None, version: int | None = None
) -> dict[str, object]:
    """Of the AVAILABLE versions; of all models where none is named, and of all its versions where none is."""
    sums = _sums(scraped)
    return {
        "model_stats": [
            _model_stats(name, str(number), sums[name, str(number)])
            for name, versions in sorted(registry.statuses().items())
            for number, status in sorted(versions.items())
            if model in (None, name) and version in (None, number) and status.state is State.AVAILABLE
        ]
    }


def _sums(scraped: Collector) -> Mapping[tuple[str, str], Sums]:
    """By model and version the values of their series, by name and with the other labels added up. Requests are told
    apart by success."""
    sums: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for family in scraped.collect():
        for sample in family.samples:
            labels, name = sample.labels, sample.name
            if "version" not in labels or labels.get("verb", "infer") not in _VERBS:
                continue
            if name == "serving_requests_total":
                name = "success" if labels["status"] == "200" else "fail"
            sums[labels["model"], labels["version"]][name] += sample.value
    return sums


def _model_stats(model: str, version: str, sums: Sums) -> dict[str, object]:
    decode, encode = sums["serving_decode_seconds_total"], sums["serving_encode_seconds_total"]
    inference, queue = sums["serving_inference_duration_seconds_sum"], sums["serving_queue_wait_seconds_sum"]
    answered = decode + inference + encode
    inferences = sums["serving_inference_duration_seconds_count"]
    return {
        "name": model,
        "version": version,
        "inference_count": int(sums["serving_batch_size_sum"]),
        "execution_count": int(sums["serving_batch_size_count"]),
        "inference_stats": {
            "success": _duration(sums["success"], answered),
            "fail": _duration(sums["fail"], sums["serving_request_duration_seconds_sum"] - answered),
            "queue": _duration(inferences, queue),
            "compute_input": _duration(inferences, decode),
            "compute_infer": _duration(inferences, inference - queue),
            "compute_output": _duration(inferences, encode),
            "cache_hit": _duration(0, 0),
            "cache_miss": _duration(0, 0),
        },
        "batch_stats": [],
    }


def _duration(count: float, seconds: float) -> dict[str, int]:
    # Differences of sums of floats may come out a little below zero.
    return {"count": int(count), "ns": max(0, round(seconds * 1e9))}
