"""What can be known of deploy/nginx.conf without nginx: it fits the service, and compose."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.server import connection
from service.settings import Settings

ROOT = Path(__file__).parents[2]


def directive(name: str) -> str:
    (value,) = re.findall(rf"^\s*{name} ([^;{{]+);", (ROOT / "deploy/nginx.conf").read_text(), re.MULTILINE)
    return str(value)


def listened() -> list[str]:
    """For the health check, and for clients."""
    return re.findall(r"^\s*listen ([\d.:]+)", (ROOT / "deploy/nginx.conf").read_text(), re.MULTILINE)


def compose() -> Any:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def test_compose_balances_over_the_service_at_its_port() -> None:
    name, port = directive("server").split()[0].split(":")
    assert compose()[name]["expose"] == [port]
    assert compose()["balancer"]["ports"] == [f"${{SERVING_PORT:-{port}}}:{listened()[1]}"]
    assert port == str(Settings().port)


def test_the_health_check_asks_nginx_itself_where_only_the_container_reaches_it() -> None:
    assert compose()["balancer"]["healthcheck"]["test"][-1] == f"http://{listened()[0]}"
    assert listened()[0].startswith("127.0.0.1:")


def test_only_the_balancer_takes_a_port_of_the_machine_for_the_service() -> None:
    assert "ports" not in compose()["service"]


def test_replicas_are_looked_for_all_the_time() -> None:
    assert "resolve" in directive("server").split()
    assert "valid=1s" in directive("resolver").split()


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("client_header_timeout", connection.HEAD_SECONDS),
        ("client_body_timeout", connection.BODY_SECONDS),
        ("send_timeout", connection.WRITE_SECONDS),
    ],
)
def test_clients_have_as_long_as_with_the_service(name: str, seconds: int) -> None:
    assert directive(name) == f"{seconds}s"


def test_connections_to_replicas_are_given_up_before_the_service_closes_them() -> None:
    text = "\n".join(map(str, compose()["balancer"]["command"]))
    assert re.findall(r"keepalive_timeout (.+?);", text) == [
        "$$((KEEP_ALIVE_SECONDS * 800))ms",
        "$${KEEP_ALIVE_SECONDS}s",
    ]


def test_limits_follow_the_services_settings() -> None:
    environment = compose()["balancer"]["environment"]
    assert environment["BODY_BYTES"] == f"${{SERVING_MAX_BODY_BYTES:-{Settings().max_body_bytes}}}"
    assert environment["KEEP_ALIVE_SECONDS"] == f"${{SERVING_KEEP_ALIVE_SECONDS:-{Settings().keep_alive_seconds}}}"
    assert environment["REQUEST_MS"] == f"${{SERVING_REQUEST_TIMEOUT_MS:-{Settings().request_timeout_ms}}}"


def test_compose_waits_longer_for_a_stop_than_the_balancer_drains() -> None:
    grace = int(compose()["balancer"]["stop_grace_period"].removesuffix("s"))
    assert grace > int(directive("worker_shutdown_timeout").removesuffix("s"))
