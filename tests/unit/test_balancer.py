"""deploy/nginx.conf without nginx: it fits the service and the compose file."""

import re
from pathlib import Path
from typing import Any

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


def test_balancer_reaches_the_service() -> None:
    name, port = directive("server").split()[0].split(":")
    assert compose()[name]["expose"] == [port]
    assert compose()["balancer"]["ports"] == [f"${{SERVING_PORT:-{port}}}:{listened()[1]}"]
    assert port == str(Settings().port)
    assert "ports" not in compose()["service"]


def test_health_check_is_of_nginx_itself() -> None:
    assert compose()["balancer"]["healthcheck"]["test"][-1] == f"http://{listened()[0]}"
    assert listened()[0].startswith("127.0.0.1:")


def test_replicas_are_resolved_all_the_time() -> None:
    assert "resolve" in directive("server").split()
    assert "valid=1s" in directive("resolver").split()


def test_timeouts_are_those_of_the_service() -> None:
    assert directive("client_header_timeout") == f"{connection.HEAD_SECONDS}s"
    assert directive("client_body_timeout") == f"{connection.BODY_SECONDS}s"
    assert directive("send_timeout") == f"{connection.WRITE_SECONDS}s"


def test_idle_connections_are_closed_before_the_service_does() -> None:
    text = "\n".join(map(str, compose()["balancer"]["command"]))
    assert re.findall(r"keepalive_timeout (.+?);", text) == [
        "$$((KEEP_ALIVE_SECONDS * 800))ms",
        "$${KEEP_ALIVE_SECONDS}s",
    ]


def test_limits_are_the_settings() -> None:
    environment = compose()["balancer"]["environment"]
    assert environment["BODY_BYTES"] == f"${{SERVING_MAX_BODY_BYTES:-{Settings().max_body_bytes}}}"
    assert environment["KEEP_ALIVE_SECONDS"] == f"${{SERVING_KEEP_ALIVE_SECONDS:-{Settings().keep_alive_seconds}}}"
    assert environment["REQUEST_MS"] == f"${{SERVING_REQUEST_TIMEOUT_MS:-{Settings().request_timeout_ms}}}"


def test_grace_period_is_longer_than_draining() -> None:
    grace = int(compose()["balancer"]["stop_grace_period"].removesuffix("s"))
    assert grace > int(directive("worker_shutdown_timeout").removesuffix("s"))
