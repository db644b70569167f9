"""Every panel of the dashboards, and the alerts: a real Prometheus scrapes a real service under traffic."""

import io
import json
import re
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image

from tests.integration.models import write_policies
from tests.integration.prometheus import MONITORING, Prometheus, prometheus
from tests.integration.server import DEADLINE_SECONDS, SHIPPED, TEN, Server, running, wait_for

BODY_LIMIT = 200_000
POLICIES = """
[models.clothing.labels]
stable = 1
canary = {version = 2, share = 0.5}

[models.mirrored.labels]
stable = 1
next = {version = 2, shadow = 1.0}

[models.mixed.labels]
stable = 1
next = {version = 2, shadow = 1.0}
"""
# What only a machine with a limit shows.
WITHOUT_DATA = {"Memory B", "Memory C"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """What is shipped, two models with a shadow, of which one takes other inputs, one that cannot be loaded, and
    policies that are invalid by now."""
    folder = tmp_path_factory.mktemp("panels")
    models = shutil.copytree(SHIPPED, folder / "models")
    for source, copy in (
        ("regression/1", "mirrored/1"),
        ("regression/1", "mirrored/2"),
        ("regression/1", "mixed/1"),
        ("clothing/1", "mixed/2"),
    ):
        shutil.copytree(SHIPPED / source, models / copy)
    (models / "broken" / "1").mkdir(parents=True)
    (models / "broken" / "1" / "saved_model.pb").write_bytes(b"\xffnot a protocol buffer")
    write_policies(models, POLICIES)
    limits = {"threads": 1, "max_queue_size": 1, "max_body_bytes": BODY_LIMIT}
    with running(models, folder / "log", workers=2, capture_file=folder / "captured", **limits) as server:
        write_policies(models, "[models.clothing]\nversions = 'sum'")
        yield server


@pytest.fixture(scope="module")
def monitor(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with prometheus(tmp_path_factory.mktemp("prometheus"), server.port) as monitor:
        yield monitor


def test_every_panel_of_every_dashboard_has_data(server: Server, monitor: Prometheus) -> None:
    without_data = queries()
    assert len(without_data) > 50

    def missing() -> set[str]:
        return {name for name, *_ in without_data}

    def all_had_data() -> bool:
        """Each at some time: on a busy machine the traffic of one may be over before that of the last has begun."""
        make_traffic(server)
        without_data[:] = [query for query in without_data if not has_data(monitor, *query[1:])]
        return missing() <= WITHOUT_DATA

    wait_for(all_had_data, lambda: f"no data in {missing()}; the service's log:\n{server.log.read_text()[-3000:]}")


def test_alerts_notice_what_is_wrong(server: Server, monitor: Prometheus) -> None:
    missing = {
        *("ServingModelLoadFailed", "ServingModelNotServed", "ServingModelsConfigInvalid"),
        *("ServingOverloaded", "ServingErrorBudgetBurn", "ServingOutliers", "ServingDrift"),
    }

    def are_noticed() -> bool:
        make_traffic(server)
        missing.difference_update(labels["alertname"] for labels, _ in monitor.query("ALERTS"))
        return not missing

    wait_for(are_noticed, lambda: f"not noticed were {missing}")


def queries() -> list[tuple[str, str, set[str]]]:
    """Name, expression and labels that are shown, of each panel's queries and of the variables."""
    found = []
    for file in sorted((MONITORING / "grafana/dashboards").glob("*.json")):
        dashboard = json.loads(file.read_text())
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                shown = set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")))
                found.append((f"{panel['title']} {target['refId']}", target["expr"], shown))
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                (selector, label) = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
                found.append((f"{dashboard['title']} ${variable['name']}", selector, {label}))
    return found


def has_data(monitor: Prometheus, expression: str, labels: set[str]) -> bool:
    """Whether there is a finite number for a series with every label that is shown."""
    # As Grafana replaces them: at least four scrape intervals, and the variables' value for "All".
    for name, value in {"$__rate_interval": "5s", "$model": ".*", "$version": ".*"}.items():
        expression = expression.replace(name, value)
    return any(labels <= found.keys() for found, _ in monitor.query(expression))


def make_traffic(server: Server) -> None:
    """Something of everything that a panel shows."""
    shoe = (SHIPPED / "clothing/2/assets.extra/sample.png").read_bytes()
    photo = (SHIPPED / "photos/1/assets.extra/sample.jpg").read_bytes()
    pixels = {"name": "pixels", "datatype": "FP32", "shape": [1, 28, 28], "data": [7] * 784}
    expected: list[tuple[str, Any, int]] = [
        ("/v1/models/regression:predict", TEN, 200),
        ("/v1/models/regression:predict", {"instances": "ten"}, 400),
        ("/v1/models/regression:predict", bytes(2 * BODY_LIMIT), 413),
        ("/v1/models/nowhere:predict", TEN, 404),
        ("/v1/models/mixed:predict", TEN, 200),
        ("/v2/models/clothing/infer", {"inputs": [pixels]}, 200),
        *[("/v1/models/clothing:classify", picture, 200) for picture in (shoe, noise(), noise())],
        ("/v1/models/photos:classify", photo, 200),
    ]
    give_feedback(server)
    for path, body, status in expected:
        kind = "application/json" if not isinstance(body, bytes) else "image/png"
        assert server.request(path, body, kind).status == status, path
    # The deadline is over before the picture is decoded.
    late = {"X-Request-Timeout-Ms": "1"}
    assert server.request("/v1/models/photos:classify", photo, "image/jpeg", headers=late).status == 504
    ask_at_once(server, "/v1/models/photos:classify", photo)
    send_ahead(server, "/v1/models/mirrored:predict", TEN)


def give_feedback(server: Server) -> None:
    """As many rows as the observed accuracy needs."""
    request_id = uuid4().hex
    rows = {"instances": [[[7] * 28] * 28] * 30}
    path = "/v1/models/clothing/versions/1"
    assert server.request(f"{path}:predict", rows, headers={"X-Request-ID": request_id}).status == 200
    feedback = {"request_id": request_id, "label": ["Bag", *["Sneaker"] * 29]}
    assert server.request(f"{path}:feedback", feedback).status == 200


def noise() -> bytes:
    pixels = np.random.default_rng(7).integers(0, 256, (28, 28), np.uint8)
    Image.fromarray(pixels).save(out := io.BytesIO(), "PNG")
    return out.getvalue()


def ask_at_once(server: Server, path: str, picture: bytes) -> None:
    """More than one thread and one place in the queue of two worker processes can take."""
    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(lambda _: server.request(path, picture, "image/jpeg").status, range(24)))
    assert set(statuses) <= {200, 429}


def send_ahead(server: Server, path: str, body: object) -> None:
    """Faster than a shadow can follow."""
    text = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n"
    request = head.encode() + b"\r\n" + text
    last = head.encode() + b"Connection: close\r\n\r\n" + text

    def send(_: int) -> int:
        with socket.create_connection(("127.0.0.1", server.port), DEADLINE_SECONDS) as client:
            client.sendall(request * 60 + last)
            return b"".join(iter(lambda: client.recv(65536), b"")).count(b"HTTP/1.1 200")

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(send, range(4))) == [61] * 4
