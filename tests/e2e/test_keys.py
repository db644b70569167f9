"""API keys for compose, and what has none: Prometheus and the health check."""

import http.client
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.stack import Ask, Docker, Stack, up

WaitUntil = Callable[..., Any]


@pytest.fixture(scope="module")
def key(docker: Docker, image: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A key, and the folder with the file that knows it."""
    folder = tmp_path_factory.mktemp("keys")
    printed = docker("run", "--rm", image, "key", "--name", "alice", "--scope", "predict")
    (folder / "api-keys.toml").write_text(printed.partition("For the file:")[2])
    # The container's user is another.
    folder.chmod(0o755)
    (folder / "api-keys.toml").chmod(0o644)
    (key,) = (line for line in printed.splitlines() if line.startswith("fr_"))
    return key, str(folder)


@pytest.fixture(scope="module")
def stack(docker: Docker, image: str, ask: Ask, key: tuple[str, str]) -> Iterator[Stack]:
    files = {"COMPOSE_FILE": "docker-compose.yml:deploy/compose.keys.yml", "API_KEYS_DIR": key[1]}
    with up(docker, image, ask, "balancer", "prometheus", **files) as stack:
        yield stack


def status(address: str, path: str, **headers: str) -> int:
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request("GET", path, headers=headers)
    status = connection.getresponse().status
    connection.close()
    return status


def test_a_client_needs_a_key_and_prometheus_needs_none(
    stack: Stack, key: tuple[str, str], wait_until: WaitUntil
) -> None:
    asked = (stack.address, "/v1/models/regression")
    assert [status(*asked), status(*asked, Authorization=f"Bearer {key[0]}")] == [401, 200]
    wait_until(lambda: stack.prometheus('up{job="fitting-room", instance=~".*:8501"} == 1'), what="up == 1")


def test_prometheus_and_the_health_check_follow_to_the_operations_port(stack: Stack, wait_until: WaitUntil) -> None:
    stack.environment["SERVING_OPERATIONS_PORT"] = "8502"
    stack.compose("up", "--detach", "--wait", "service", "prometheus")
    vars(stack).pop("prometheus_address", None)  # its port is another now
    assert stack.inspect("service", "{{.State.Health.Status}}") == "healthy"
    wait_until(lambda: stack.prometheus('up{job="fitting-room", instance=~".*:8502"} == 1'), what="up == 1")
