"""Which port the container's health check asks."""

import http.client
import runpy
import ssl
from pathlib import Path

import pytest

HEALTHCHECK = Path(__file__).parents[3] / "deploy/healthcheck.py"
SERVICE_LINK = "tcp://10.96.12.7:8501"


@pytest.mark.parametrize(
    ("main", "operations", "port"),
    [
        (None, None, 8501),
        ("80", "0", 80),
        ("80", "8502", 8502),
        ("80", SERVICE_LINK, 80),
        (SERVICE_LINK, SERVICE_LINK, 8501),
    ],
)
def test_health_is_asked_at_the_port_where_the_service_has_it(
    monkeypatch: pytest.MonkeyPatch, main: str | None, operations: str | None, port: int
) -> None:
    for name, value in (("SERVING_PORT", main), ("SERVING_OPERATIONS_PORT", operations)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    ports: list[int] = []

    def connect(_host: str, port: int, timeout: float) -> None:
        ports.append(port)
        raise SystemExit

    monkeypatch.setattr(http.client, "HTTPConnection", connect)
    with pytest.raises(SystemExit):
        runpy.run_path(str(HEALTHCHECK))
    assert ports == [port]


def test_tls_is_spoken_where_the_service_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVING_TLS_CERT", "/certificate")

    def connect(_host: str, _port: int, timeout: float, context: ssl.SSLContext) -> None:
        raise SystemExit("by TLS")

    monkeypatch.setattr(http.client, "HTTPSConnection", connect)
    with pytest.raises(SystemExit, match="by TLS"):
        runpy.run_path(str(HEALTHCHECK))
