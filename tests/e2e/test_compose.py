"""docker-compose.yml for real: the service and Prometheus come up, and Prometheus knows what was served."""

import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.stack import Ask, Docker, Stack, up

BODY_LIMIT = 100_000

WaitUntil = Callable[..., Any]


@pytest.fixture(scope="module")
def stack(docker: Docker, image: str, ask: Ask) -> Iterator[Stack]:
    limit = {"SERVING_MAX_BODY_BYTES": str(BODY_LIMIT)}
    with up(docker, image, ask, "balancer", "prometheus", "alertmanager", **limit) as stack:
        yield stack


def test_the_containers_are_healthy(stack: Stack) -> None:
    for service in ("service", "balancer", "prometheus"):
        assert stack.inspect(service, "{{.State.Health.Status}}") == "healthy"


def test_the_service_runs_without_any_right_that_it_does_not_need(stack: Stack) -> None:
    status = stack.compose("exec", "-T", "service", "cat", "/proc/1/status")
    facts = dict(re.findall(r"^(\w+):\s*(.*)$", status, re.MULTILINE))
    assert facts["Uid"].split() == ["10001"] * 4
    assert int(facts["CapEff"], 16) == 0
    assert facts["NoNewPrivs"] == "1"
    written = stack.compose("exec", "-T", "service", "touch", "/app/file", "/models/file", check=False)
    assert written.count("Read-only file system") == 2


def test_the_balancer_takes_no_longer_bodies_than_the_service(stack: Stack) -> None:
    url = stack.url("/v1/models/clothing:classify")
    assert stack.ask(url, bytes(BODY_LIMIT + 1)) == (413, {"error": "the body is longer than is taken"})
    assert stack.ask(url, bytes(BODY_LIMIT))[0] == 400


def test_prometheus_scrapes_the_service(stack: Stack, wait_until: WaitUntil) -> None:
    wait_until(lambda: stack.prometheus('up{job="fitting-room"} == 1'), what="up == 1")


def test_prometheus_has_the_alerts_and_tells_the_alertmanager(stack: Stack, wait_until: WaitUntil) -> None:
    def asked(path: str) -> Any:
        return stack.ask(f"http://{stack.prometheus_address}/api/v1/{path}")[1]["data"]

    names = {rule["name"] for group in asked("rules?type=alert")["groups"] for rule in group["rules"]}
    assert "ServingDown" in names
    wait_until(lambda: asked("alertmanagers")["activeAlertmanagers"], what="an Alertmanager that Prometheus sends to")
    address = stack.compose("port", "alertmanager", "9093")
    wait_until(lambda: stack.ask(f"http://{address}/api/v2/status")[1]["config"], what="the Alertmanager")


def test_prometheus_counts_every_prediction(stack: Stack, wait_until: WaitUntil) -> None:
    predictions = {"model": "regression", "verb": "predict", "status": "200"}
    already = 0.0
    for family in text_string_to_metric_families(stack.ask(stack.url("/metrics"))[1]):
        for sample in family.samples:
            if sample.name == "serving_requests_total" and predictions.items() <= sample.labels.items():
                already += sample.value
    for _ in range(7):
        assert stack.predict() == [pytest.approx(31, abs=0.01)]
    selector = ", ".join(f'{name}="{value}"' for name, value in predictions.items())
    counted = wait_until(
        lambda: stack.prometheus(f"sum(serving_requests_total{{{selector}}})"),
        lambda series: series and series[0][1] >= already + 7,
        "the predictions in Prometheus",
    )
    assert counted[0][1] == already + 7


def test_a_version_that_is_dropped_into_the_models_folder_is_picked_up(stack: Stack, wait_until: WaitUntil) -> None:
    folder = stack.models / "regression"
    shutil.copytree(folder / "1", folder / ".2")
    (folder / ".2").rename(folder / "2")
    status = stack.url("/v1/models/regression/versions/2")

    def states() -> set[Any]:
        """Asked many times: each worker looks at the folder for itself, and any of them may answer."""
        answers = [stack.ask(status)[1] for _ in range(20)]
        return {answer.get("model_version_status", [{}])[0].get("state") for answer in answers}

    wait_until(states, lambda told: told == {"AVAILABLE"}, "version 2 with every worker")
    assert stack.predict("/versions/2") == [pytest.approx(31, abs=0.01)]
