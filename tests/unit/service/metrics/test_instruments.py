import math

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from service.inference.scores import best_labels
from service.metrics.definitions import BatchMetrics, Metrics
from tests.unit.service.forked import in_threads

MODEL = {"model": "model", "version": "1"}
CALL = {**MODEL, "protocol": "v1", "verb": "predict"}


@pytest.fixture
def metrics(page: CollectorRegistry) -> Metrics:
    return Metrics(page)


def test_counter_adds_up_and_gauge_has_the_last_value(metrics: Metrics, page: CollectorRegistry) -> None:
    other = CollectorRegistry()
    Metrics(other)
    for number in (3, 2.5):
        metrics.rejected.labels("too_large").inc(number)
        metrics.queue_length.labels("model", "1").set(number)
    metrics.rejected.labels("too_large").inc()
    assert page.get_sample_value("serving_rejected_total", {"reason": "too_large"}) == 6.5
    assert page.get_sample_value("serving_queue_length", MODEL) == 2.5
    assert other.get_sample_value("serving_rejected_total", {"reason": "too_large"}) is None


def test_bucket_holds_values_up_to_its_bound(metrics: Metrics, page: CollectorRegistry) -> None:
    for rows in (1, 2, 3, 300):
        metrics.batch_size.labels("model", "1").observe(rows)
    for bound, count in {"1.0": 1, "2.0": 2, "4.0": 3, "256.0": 3, "+Inf": 4}.items():
        assert page.get_sample_value("serving_batch_size_bucket", {**MODEL, "le": bound}) == count
    assert page.get_sample_value("serving_batch_size_count", MODEL) == 4
    assert page.get_sample_value("serving_batch_size_sum", MODEL) == 306


def test_wrong_number_of_labels_is_an_error(metrics: Metrics) -> None:
    with pytest.raises(ValueError, match=r"serving_batch_size has the labels \('model', 'version'\), not 1: \('m',\)"):
        metrics.batch_size.labels("m")


def test_request_is_counted_by_status_and_its_times_by_stage(metrics: Metrics, page: CollectorRegistry) -> None:
    for status in (200, 200, 400):
        metrics.of_request("model", "1", "v1", "predict", status).record(0.75, 0.25, 0.125)
    assert page.get_sample_value("serving_requests_total", {**CALL, "status": "200"}) == 2
    assert page.get_sample_value("serving_requests_total", {**CALL, "status": "400"}) == 1
    assert page.get_sample_value("serving_request_duration_seconds_count", CALL) == 3
    assert page.get_sample_value("serving_request_duration_seconds_sum", CALL) == 2.25
    assert page.get_sample_value("serving_decode_seconds_total", MODEL) == 0.75
    assert page.get_sample_value("serving_encode_seconds_total", MODEL) == 0.375


def test_threads_lose_no_request(metrics: Metrics, page: CollectorRegistry) -> None:
    def serve() -> None:
        for _ in range(3000):
            metrics.of_request("model", "1", "v1", "predict", 200).record(0.5, 0.25, 0.25)

    in_threads(4, serve)
    assert page.get_sample_value("serving_requests_total", {**CALL, "status": "200"}) == 12000
    assert page.get_sample_value("serving_request_duration_seconds_count", CALL) == 12000
    assert page.get_sample_value("serving_request_duration_seconds_sum", CALL) == 6000


@pytest.mark.parametrize("times", [1, 20], ids=["few rows", "many rows"])
def test_predictions_count_the_best_label_and_its_score(metrics: Metrics, page: CollectorRegistry, times: int) -> None:
    scores = np.array([[0.75, 0.25], [0.5, 0.25], [0.25, 0.5], [np.nan, np.nan]] * times)
    metrics.of_predictions("model", 1).record(("cat", "dog"), *best_labels(scores))
    assert page.get_sample_value("serving_prediction_total", {**MODEL, "label": "cat"}) == 2 * times
    assert page.get_sample_value("serving_prediction_total", {**MODEL, "label": "dog"}) == times
    assert page.get_sample_value("serving_prediction_confidence_bucket", {**MODEL, "le": "0.5"}) == 2 * times
    assert page.get_sample_value("serving_prediction_confidence_count", MODEL) == 3 * times
    assert page.get_sample_value("serving_prediction_confidence_sum", MODEL) == 1.75 * times


def test_infinite_outlier_scores_are_above_all_bounds(metrics: Metrics, page: CollectorRegistry) -> None:
    metrics.of_outlier_scores("model", 1).record([0.25, 1.0, 1.25, 100.0, math.nan, math.inf, -math.inf])
    for bound, count in {"0.1": 0, "0.25": 1, "1.0": 2, "1.5": 3, "16.0": 3, "+Inf": 7}.items():
        assert page.get_sample_value("serving_outlier_score_bucket", {**MODEL, "le": bound}) == count
    assert page.get_sample_value("serving_outlier_score_sum", MODEL) == 102.5


def test_version_has_its_batch_metrics_from_the_start(metrics: Metrics, page: CollectorRegistry) -> None:
    batch = BatchMetrics(metrics, "model", 1)
    assert page.get_sample_value("serving_batch_size_count", MODEL) == 0
    batch.ran(4)
    batch.waited(0.5)
    batch.queued(3)
    batch.contradicted()
    assert page.get_sample_value("serving_batch_size_sum", MODEL) == 4
    assert page.get_sample_value("serving_queue_wait_seconds_sum", MODEL) == 0.5
    assert page.get_sample_value("serving_queue_length", MODEL) == 3
    assert page.get_sample_value("serving_batch_contradictions_total", MODEL) == 1
