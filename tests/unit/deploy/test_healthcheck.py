"""Which port the container's health check asks."""

import http.client
import runpy
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
@pytest.mark.parametrize("certificate", ["", "/certificate"])
def test_health_is_asked_where_the_service_has_it(
    monkeypatch: pytest.MonkeyPatch, main: str | None, operations: str | None, port: int, certificate: str
) -> None:
    for name, value in (("PORT", main), ("OPERATIONS_PORT", operations), ("TLS_CERT", certificate)):
        monkeypatch.setenv(f"SERVING_{name}", value or "")

    def connect(_host: str, asked: int, **options: object) -> None:
        raise SystemExit(f"{asked} {'context' in options}")

    monkeypatch.setattr(http.client, "HTTPSConnection" if certificate else "HTTPConnection", connect)
    with pytest.raises(SystemExit, match=f"^{port} {bool(certificate)}$"):
        runpy.run_path(str(HEALTHCHECK))
