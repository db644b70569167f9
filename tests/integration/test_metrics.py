"""Metrics of two worker processes that serve many clients at once, and are killed."""

import http.client
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.integration.models import publish
from tests.integration.server import DEADLINE_SECONDS, SHIPPED, TEN, Server, running, workers

CLIENTS, ROUNDS = 8, 10
EACH = CLIENTS * ROUNDS
PICTURE = (SHIPPED / "clothing/1/assets.extra/sample.png").read_bytes()


class Page:
    """What one scrape shows."""

    def __init__(self, server: Server) -> None:
        text = server.request("/metrics").body.decode()
        self.samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def total(self, name: str, **labels: str) -> float:
        return sum(one.value for one in self.samples if one.name == name and labels.items() <= one.labels.items())


def ask(server: Server) -> None:
    """Of each kind one request, `ROUNDS` times over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE_SECONDS)
    json_type, picture_type = {"Content-Type": "application/json"}, {"Content-Type": "image/png"}
    x = {"name": "x", "datatype": "FP32", "shape": [3], "data": [1.0, 2.0, 3.0]}
    for _ in range(ROUNDS):
        for path, body, headers, status in (
            ("/v1/models/regression/versions/1:predict", json.dumps(TEN).encode(), json_type, 200),
            ("/v1/models/regression/versions/1:predict", b'{"instances": "ten"}', json_type, 400),
            ("/v2/models/regression/infer", json.dumps({"inputs": [x]}).encode(), json_type, 200),
            ("/v1/models/clothing:classify", PICTURE, picture_type, 200),
            ("/v1/models/nowhere:predict", b"{}", json_type, 404),
        ):
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            assert (response.status, bool(response.read())) == (status, True)
    connection.close()


def check_counts(page: Page) -> None:
    of_regression = {"model": "regression", "version": "1"}
    of_clothing = {"model": "clothing", "version": "1"}
    assert page.total("serving_requests_total") == 5 * EACH
    assert page.total("serving_requests_total", **of_regression, status="200") == 2 * EACH
    assert page.total("serving_requests_total", **of_regression, status="400") == EACH
    assert page.total("serving_requests_total", model="", version="", status="404") == EACH
    for suffix, labels in (("count", {}), ("bucket", {"le": "+Inf"})):
        assert page.total(f"serving_request_duration_seconds_{suffix}", **labels) == 5 * EACH
        assert page.total(f"serving_inference_duration_seconds_{suffix}", **labels) == 3 * EACH
    assert page.total("serving_batch_size_sum", **of_regression) == 4 * EACH
    assert page.total("serving_batch_size_sum", **of_clothing) == EACH
    for name in ("prediction_total", "prediction_confidence_count", "outlier_score_count"):
        assert page.total(f"serving_{name}", **of_clothing) == EACH


def test_counts_are_exact_and_outlive_killed_workers_whose_gauges_go(models: Path, tmp_path: Path) -> None:
    publish(SHIPPED / "clothing" / "1", models / "clothing" / "1")
    with running(models, tmp_path / "log", workers=2) as server:
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(ask, [server] * CLIENTS))
        # Each scrape comes by a connection of its own, so sooner or later from either worker.
        for _ in range(10):
            check_counts(Page(server))
        killed = workers(server)
        with ExitStack() as connections:
            for _ in range(20):
                connections.enter_context(socket.create_connection(("127.0.0.1", server.port), DEADLINE_SECONDS))
            server.wait_for(lambda: server.sample("serving_connections") >= 20, "the connections are not counted")
            for worker in killed:
                worker.kill()
            server.wait_until_all_workers_answer(len(killed))
            page = Page(server)
        check_counts(page)
        assert page.total("serving_workers") == len(killed)
        # Only this one: the worker that answered before may not have noticed yet that its client has left.
        server.wait_for(lambda: server.sample("serving_connections") == 1, "connections of killed workers are counted")
        assert server.statuses(times=1) == {200}
        assert Page(server).total("serving_requests_total") == 5 * EACH + 1
