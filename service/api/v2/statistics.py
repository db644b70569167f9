"""Statistics of each version, from the metrics of all worker processes (extension statistics).

The stages of a request add up: success = compute_input + queue + compute_infer + compute_output.
"""

from collections import defaultdict
from collections.abc import Mapping

from service.inference.version import State
from service.lifecycle.registry import Registry
from service.metrics.exposition import Page
from service.metrics.store import Sums

# Verbs of predictions, of all protocols.
_VERBS = ("infer", "predict", "classify", "regress")
_SECONDS_AND_ROWS = (
    "serving_decode_seconds",
    "serving_encode_seconds",
    "serving_inference_duration_seconds",
    "serving_queue_wait_seconds",
    "serving_batch_size",
)


def statistics(
    registry: Registry, page: Page, model: str | None = None, version: int | None = None
) -> dict[str, object]:
    """Of the AVAILABLE versions; of all models where none is named, and of all its versions where none is."""
    totals = _totals(page.sums())
    return {
        "model_stats": [
            _model_stats(name, str(number), totals[name, str(number)])
            for name, versions in sorted(registry.statuses().items())
            for number, status in sorted(versions.items())
            if model in (None, name) and version in (None, number) and status.state is State.AVAILABLE
        ]
    }


def _totals(sums: Sums) -> Mapping[tuple[str, str], Mapping[str, float]]:
    """For each model and version, by metric: what was counted over all other labels; of a histogram also the `_count`.
    Requests are told apart by success."""
    totals: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for (model, version, _protocol, verb, status), (count,) in sums.of("serving_requests"):
        if verb in _VERBS:
            totals[model, version]["success" if status == "200" else "fail"] += count
    for (model, version, _protocol, verb), cells in sums.of("serving_request_duration_seconds"):
        if verb in _VERBS:
            totals[model, version]["request_seconds"] += cells[-1]
    for metric in _SECONDS_AND_ROWS:
        for (model, version, *_), cells in sums.of(metric):
            totals[model, version][metric] += cells[-1]
            totals[model, version][metric + "_count"] += sum(cells[:-1])
    return totals


def _model_stats(model: str, version: str, totals: Mapping[str, float]) -> dict[str, object]:
    decode, encode = totals["serving_decode_seconds"], totals["serving_encode_seconds"]
    inference, queue = totals["serving_inference_duration_seconds"], totals["serving_queue_wait_seconds"]
    answered = decode + inference + encode
    inferences = totals["serving_inference_duration_seconds_count"]
    return {
        "name": model,
        "version": version,
        "inference_count": int(totals["serving_batch_size"]),
        "execution_count": int(totals["serving_batch_size_count"]),
        "inference_stats": {
            "success": _duration(totals["success"], answered),
            "fail": _duration(totals["fail"], totals["request_seconds"] - answered),
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
