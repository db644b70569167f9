"""Every answer says which request it is for, whoever gives it."""

import asyncio
import logging
import re
from pathlib import Path

import pytest

from service import create_app
from service.server.connection import BODY_SECONDS, Connections, HttpConnection
from service.settings import Settings
from tests.unit.service.fakes import FakeService, FakeTransport, patient_settings, signature, tensor

MAX_BODY_BYTES = 100
OF = signature({"x": tensor("DT_FLOAT", -1)})


def exchange(tmp_path: Path, sent: bytes, status: int, *, seconds_later: float = 0) -> list[str]:
    """The ids that the answer to these bytes carries, which has this status."""

    async def scenario() -> bytes:
        service = FakeService(create_app(patient_settings(tmp_path, max_body_bytes=MAX_BODY_BYTES)))
        service.app.watcher.scan()
        service.add(OF)
        service.add(OF, lambda _: {"y": 1 / 0}, model="broken")  # type: ignore[dict-item]
        dispatcher = service.app.dispatcher
        connection = HttpConnection(dispatcher, Connections(), MAX_BODY_BYTES, service.app.admits[0])
        connection.connection_made(transport := FakeTransport())
        connection.data_received(sent)
        if seconds_later:
            connection.sweep(asyncio.get_running_loop().time() + seconds_later)
        while b"\r\n\r\n" not in transport.written:
            await asyncio.sleep(0)
        dispatcher.close()
        return transport.written

    head = asyncio.run(scenario()).partition(b"\r\n\r\n")[0].decode()
    assert head.startswith(f"HTTP/1.1 {status} ")
    return re.findall("(?<=\r\nx-request-id: ).*(?=\r|$)", head)


def request(line: str, body: str = "", length: int | None = None, headers: str = "X-Request-ID: mine\r\n") -> bytes:
    length = len(body) if length is None else length
    return f"{line} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n{body}".encode()


ROW = '{"instances": [1.0]}'
PREDICT = "POST /v1/models/model:predict"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(PREDICT, ROW), 200),
        (request(PREDICT, "no JSON"), 400),
        (request("POST /v1/models/nowhere:predict", ROW), 404),
        (request("POST /v1/models/broken:predict", ROW), 500),
        (request("GET /v1/models"), 200),
        (request("GET /v2/health/live"), 200),
        (request("GET /nowhere"), 404),
        (request("DELETE /metrics"), 405),
        (request(PREDICT, length=MAX_BODY_BYTES + 1), 413),
        (request(PREDICT, "x", headers="X-Request-ID: mine\r\nContent-Encoding: br\r\n"), 415),
    ],
)
def test_an_answer_carries_the_clients_id(tmp_path: Path, sent: bytes, status: int) -> None:
    assert exchange(tmp_path, sent, status) == ["mine"]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(PREDICT, ROW, headers=""), 200),
        (request(PREDICT, ROW, headers="X-Request-ID: two words\r\n"), 200),
        (request("GET /nowhere", headers=""), 404),
        (b"this is not HTTP\r\n\r\n", 400),
        (b"GET /" + b"x" * 70_000, 431),
    ],
)
def test_an_answer_to_who_gave_no_id_carries_a_new_one(tmp_path: Path, sent: bytes, status: int) -> None:
    (given,) = exchange(tmp_path, sent, status)
    assert re.fullmatch("[0-9a-f]{16,24}", given)


def test_a_client_that_stops_sending_gets_its_id_as_well(tmp_path: Path) -> None:
    sent = request(PREDICT, ROW, length=99)
    assert exchange(tmp_path, sent, 408, seconds_later=BODY_SECONDS + 1) == ["mine"]


@pytest.mark.parametrize("line", ["POST /v1/models/broken:predict", "POST /v2/models/broken/infer"])
def test_the_log_of_our_own_mistake_has_the_id(tmp_path: Path, line: str, caplog: pytest.LogCaptureFixture) -> None:
    body = ROW if "v1" in line else '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}'
    exchange(tmp_path, request(line, body), 500)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.__dict__["request_id"] == "mine"
    assert record.getMessage().endswith(" failed (request mine)")


def test_no_path_can_forge_a_line_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(Settings(models=tmp_path))
    monkeypatch.setattr(app.registry, "get", lambda *_: 1 / 0)
    FakeService(app).post("/v1/models/x%0A1970-01-01%20ERROR%20forged%1B[2J:predict", {})
    (record,) = caplog.records
    path = "/v1/models/x%0A1970-01-01%20ERROR%20forged%1B%5B2J%3Apredict"
    assert record.getMessage().startswith(f"POST {path} failed")
