"""Feedback reaches any worker process; the answers and what is counted are all workers'."""

import signal
from collections.abc import Iterator

import pytest

from tests.integration.server import SHIPPED, Server, running, workers

PREDICT, GIVE = "/v1/models/clothing/versions/1:predict", "/v1/models/clothing:feedback"
BLACK = {"instances": [[[0] * 28] * 28]}
VERSION = 'model="clothing",version="1"'
ROWS = 40


@pytest.fixture
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(SHIPPED, tmp_path_factory.mktemp("log") / "service.log", workers=2) as server:
        server.wait_until_all_workers_answer(2)
        yield server


def test_all_workers_join_feedback_and_show_the_same_also_after_one_died(service: Server) -> None:
    for number in range(ROWS):
        response = service.request(PREDICT, BLACK, headers={"X-Request-ID": str(number)})
        assert response.status == 200
    (scores,) = response.json()["predictions"]
    label = service.request("/playground/models/clothing/versions/1").json()["labels"][scores.index(max(scores))]
    given = [{"request_id": str(number), "label": label} for number in range(ROWS)]
    assert service.request(GIVE, given).json() == {"accepted": ROWS, "duplicates": 0, "unknown": []}
    # Each on a connection of its own: any worker may get it.
    outcomes = [service.request(GIVE, each).json() for each in given]
    assert outcomes == [{"accepted": 0, "duplicates": 1, "unknown": []}] * ROWS

    worker = workers(service)[0]
    worker.send_signal(signal.SIGKILL)
    service.wait_for(lambda: not worker.is_running(), "the worker goes on")
    service.wait_until_all_workers_answer(2)
    assert service.request(GIVE, given).json()["duplicates"] == ROWS
    for _ in range(10):
        assert service.sample(f"serving_observed_accuracy{{{VERSION}}}") == 1.0
        assert service.sample(f"serving_observed_rows{{{VERSION}}}") == ROWS
        assert service.sample('serving_feedback_total{model="clothing",outcome="right",version="1"}') == ROWS
