"""docker-compose.yml for real: the service and Prometheus come up, and Prometheus knows what was served."""

import os
import re
import shutil
import tempfile
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]

Docker = Callable[..., str]
Ask = Callable[..., tuple[int, Any]]
WaitUntil = Callable[..., Any]


@dataclass
class Stack:
    """The compose project under a name, and on ports, of its own."""

    project: str
    models: Path
    image: str
    docker: Docker
    ask: Ask

    def compose(self, *arguments: str, check: bool = True) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SERVING_", "MODEL"))}
        own = {
            "IMAGE": self.image,
            "MODELS_DIR": str(self.models),
            # Port 0: the engine takes one that is free.
            "SERVING_PORT": "127.0.0.1:0",
            "PROMETHEUS_PORT": "0",
            "ALERTMANAGER_PORT": "0",
        }
        project = ("--project-name", self.project, "--env-file", os.devnull)
        return self.docker("compose", *project, *arguments, env=kept | own, check=check)

    def inspect(self, service: str, template: str) -> str:
        container = self.compose("ps", "--all", "--quiet", service)
        return self.docker("inspect", "--format", template, container)

    @cached_property
    def service_address(self) -> str:
        return self.compose("port", "service", "8501")

    @cached_property
    def prometheus_address(self) -> str:
        return self.compose("port", "prometheus", "9090")

    def url(self, path: str) -> str:
        return f"http://{self.service_address}{path}"

    def predict(self, version: str = "") -> Any:
        url = self.url(f"/v1/models/regression{version}:predict")
        status, answer = self.ask(url, {"instances": [10.0]})
        assert status == 200, answer
        return answer["predictions"]

    def prometheus(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The series that answer a query, as (labels, value)."""
        query = urllib.parse.urlencode({"query": expression})
        status, answer = self.ask(f"http://{self.prometheus_address}/api/v1/query?{query}")
        assert status == 200, (expression, answer)
        return [(series["metric"], float(series["value"][1])) for series in answer["data"]["result"]]


@pytest.fixture(scope="module")
def stack(docker: Docker, image: str, ask: Ask) -> Iterator[Stack]:
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        shutil.copytree(ROOT / "models", models)
        up = Stack(f"fitting-room-e2e-{uuid.uuid4().hex[:8]}", models, image, docker, ask)
        try:
            up.compose("up", "--detach", "--build", "--wait", "service", "prometheus", "alertmanager")
            yield up
            print(up.compose("logs", "--no-color", check=False))  # pytest shows it where a test failed
        except pytest.fail.Exception:
            print(up.compose("logs", "--no-color", check=False))
            raise
        finally:
            up.compose("down", "--volumes", "--remove-orphans", check=False)


def test_both_containers_are_healthy(stack: Stack) -> None:
    for service in ("service", "prometheus"):
        assert stack.inspect(service, "{{.State.Health.Status}}") == "healthy"


def test_the_service_runs_without_any_right_that_it_does_not_need(stack: Stack) -> None:
    status = stack.compose("exec", "-T", "service", "cat", "/proc/1/status")
    facts = dict(re.findall(r"^(\w+):\s*(.*)$", status, re.MULTILINE))
    assert facts["Uid"].split() == ["10001"] * 4
    assert int(facts["CapEff"], 16) == 0
    assert facts["NoNewPrivs"] == "1"
    written = stack.compose("exec", "-T", "service", "touch", "/app/file", "/models/file", check=False)
    assert written.count("Read-only file system") == 2


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
