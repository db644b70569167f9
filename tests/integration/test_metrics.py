"""Metrics of worker processes that are asked at once, that lose a version, and that are killed."""

import http.client
import json
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.conftest import SHIPPED
from tests.integration.server import DEADLINE_SECONDS, Server, running, workers

CLIENTS, ROUNDS = 8, 25
PICTURE = (SHIPPED / "clothing/1/assets.extra/sample.png").read_bytes()
PREDICT = "/v1/models/regression/versions/1:predict"
TEN = json.dumps({"instances": [10.0]}).encode()


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    models = tmp_path / "models"
    for model in ("regression", "clothing"):
        shutil.copytree(SHIPPED / model / "1", models / model / "1")
    with running(models, tmp_path / "log", workers=request.param) as server:
        yield server


class Page:
    """What one scrape shows."""

    def __init__(self, server: Server) -> None:
        text = server.request("/metrics").body.decode()
        self.samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def total(self, name: str, **labels: str) -> float:
        return sum(one.value for one in self.samples if one.name == name and labels.items() <= one.labels.items())

    def of_version(self, model: str, version: str) -> set[str]:
        wanted = {"model": model, "version": version}
        return {one.name for one in self.samples if wanted.items() <= one.labels.items()}


def ask(server: Server) -> None:
    """Of each kind one request, `ROUNDS` times over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE_SECONDS)
    json_type, picture_type = {"Content-Type": "application/json"}, {"Content-Type": "image/png"}
    x = {"name": "x", "datatype": "FP32", "shape": [3], "data": [1.0, 2.0, 3.0]}
    for _ in range(ROUNDS):
        for path, body, headers, status in (
            (PREDICT, TEN, json_type, 200),
            (PREDICT, b'{"instances": "ten"}', json_type, 400),
            ("/v2/models/regression/infer", json.dumps({"inputs": [x]}).encode(), json_type, 200),
            ("/v1/models/clothing:classify", PICTURE, picture_type, 200),
            ("/v1/models/nowhere:predict", TEN, json_type, 404),
        ):
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            assert (response.status, bool(response.read())) == (status, True)
    connection.close()


def test_what_many_clients_ask_at_once_is_counted_to_the_last_request(server: Server) -> None:
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(ask, [server] * CLIENTS))
    each = CLIENTS * ROUNDS
    # Each scrape comes by a connection of its own, so sooner or later from either worker.
    for page in [Page(server) for _ in range(10)]:
        of_regression = {"model": "regression", "version": "1"}
        of_clothing = {"model": "clothing", "version": "1"}
        assert page.total("serving_requests_total") == 5 * each
        assert page.total("serving_requests_total", **of_regression, status="200") == 2 * each
        assert page.total("serving_requests_total", **of_regression, status="400") == each
        assert page.total("serving_requests_total", model="", version="", status="404") == each
        for suffix, labels in (("count", {}), ("bucket", {"le": "+Inf"})):
            assert page.total(f"serving_request_duration_seconds_{suffix}", **labels) == 5 * each
            assert page.total(f"serving_inference_duration_seconds_{suffix}", **labels) == 3 * each
        assert page.total("serving_batch_size_sum", **of_regression) == 4 * each
        assert page.total("serving_batch_size_sum", **of_clothing) == each
        for name in ("prediction_total", "prediction_confidence_count", "outlier_score_count"):
            assert page.total(f"serving_{name}", **of_clothing) == each


def test_series_go_with_their_version_and_come_back_with_it(server: Server, tmp_path: Path) -> None:
    def shown() -> list[set[str]]:
        return [Page(server).of_version("regression", "1") for _ in range(5)]

    for _ in range(7):
        assert server.request(PREDICT, TEN).status == 200
    folder = tmp_path / "models" / "regression"
    shutil.copytree(folder / "1", tmp_path / "kept")
    shutil.rmtree(folder)
    server.wait_for(lambda: not any(shown()), "the series are still there")
    assert Page(server).of_version("clothing", "1")
    folder.mkdir()
    (tmp_path / "kept").rename(folder / "1")
    server.wait_for(lambda: server.request(PREDICT, TEN).status == 200, "the version never came back")
    server.wait_for(lambda: all(shown()), "its series never came back")
    assert Page(server).total("serving_requests_total", model="regression", status="200") == 8


def test_a_worker_that_is_killed_keeps_its_counts_and_loses_its_gauges(server: Server) -> None:
    killed = workers(server)
    each = CLIENTS * ROUNDS
    with ExitStack() as connections:
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(ask, [server] * CLIENTS))
        for _ in range(20):
            connections.enter_context(socket.create_connection(("127.0.0.1", server.port), DEADLINE_SECONDS))
        server.wait_for(lambda: Page(server).total("serving_connections") >= 20, "the connections are not counted")
        for worker in killed:
            worker.kill()
        server.wait_until_all_workers_answer(len(killed))
        page = Page(server)
    assert page.total("serving_workers") == len(killed)
    assert page.total("serving_requests_total") == 5 * each
    assert page.total("serving_request_duration_seconds_count") == 5 * each
    assert page.total("serving_prediction_total") == each
    # The one that asks; the worker that it asked before may not have noticed that it has left.
    server.wait_for(lambda: Page(server).total("serving_connections") == 1, "those of killed workers are counted")
    assert server.request(PREDICT, TEN).status == 200
    assert Page(server).total("serving_requests_total") == 5 * each + 1
