import asyncio
import json
import os
import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service import create_app
from service.http import MAX_PATH_BYTES
from service.observability.access_log import FORMATTED_TOGETHER, RequestLog
from service.server.connection import Connections, HttpConnection
from service.settings import Settings
from tests.unit.service.fakes import (
    FakeService,
    FakeTransport,
    loaded_version,
    make_available,
    patient_settings,
    request,
    signature,
    tensor,
    tick_batcher,
)

OF = signature({"x": tensor("DT_FLOAT", -1)}, {"y": tensor("DT_FLOAT", -1)})
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
ROW = b'{"instances": [1.0]}'
PREDICT = "POST /v1/models/model:predict"
BROKEN = "POST /v1/models/broken:predict"


class Clients:
    """Ask a service, each on a connection of its own and all in one tick."""

    def __init__(self, folder: Path, draw: Callable[[], float] = lambda: 0.5, **settings: Any) -> None:
        settings = {"max_body_bytes": 1000, "log_format": "json", **settings}
        self.service = FakeService(create_app(patient_settings(folder, **settings)))
        self.service.app.watcher.scan()
        loaded = loaded_version(OF)
        make_available(self.service.registry, replace(loaded, tick_batcher=tick_batcher(loaded.engine)))
        self.service.add(OF, lambda _: {"y": 1 / 0}, model="broken")  # type: ignore[dict-item]
        self.blocks: list[bytes] = []
        self.request_log = RequestLog(self.service.app.settings, self.blocks.append, draw)

    def send(self, *requests: bytes, leaves: bool = False) -> list[str]:
        """The lines that come of it."""
        app = self.service.app

        async def scenario() -> None:
            transports = []
            for sent in requests:
                connection = HttpConnection(
                    app.dispatcher, Connections(), 1000, app.admits[0], self.request_log.answered
                )
                connection.connection_made(transport := FakeTransport())
                connection.data_received(sent)
                if leaves:
                    connection.connection_lost(None)
                else:
                    transports.append(transport)
            while not all(b"\r\n\r\n" in transport.written for transport in transports):
                await asyncio.sleep(0)
            for _ in range(3):
                await asyncio.sleep(0)
            app.dispatcher.close()

        asyncio.run(scenario())
        self.request_log.flush()
        return b"".join(self.blocks).decode().splitlines()

    def send_json(self, *requests: bytes, leaves: bool = False) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.send(*requests, leaves=leaves)]


@pytest.fixture
def clients(tmp_path: Path) -> Clients:
    return Clients(tmp_path)


def raw(line: str = PREDICT, body: bytes = ROW, **headers: str) -> bytes:
    lines = [f"{line} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def test_json_line(clients: Clients) -> None:
    sent = raw(PREDICT + "?secret=1", X_Request_ID="mine", traceparent=f"00-{TRACE}-{SPAN}-01")
    (line,) = clients.send_json(sent)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line.pop("time"))
    total, *stages = [line.pop(f"{name}_ms") for name in ("total", "decode", "queue", "inference", "encode")]
    assert min(stages) > 0
    assert sum(stages) <= total
    assert line == {
        "level": "info",
        "logger": "service.requests",
        "process": os.getpid(),
        "request_id": "mine",
        "trace_id": TRACE,
        "span_id": SPAN,
        "method": "POST",
        "path": "/v1/models/model:predict",
        "model": "model",
        "version": "1",
        "status": 200,
        "batch_size": 1,
        "bytes_in": len(ROW),
        "bytes_out": len(b'{"predictions":[1.0]}'),
    }
    _, line = clients.send_json(raw("GET /v1/models", b""))
    optional = {"decode_ms", "inference_ms", "encode_ms", "batch_size", "model", "version", "trace_id", "bytes_in"}
    assert not optional & line.keys()


def test_text_line(tmp_path: Path) -> None:
    clients = Clients(tmp_path, log_format="text")
    (line,) = clients.send(raw(X_Request_ID="mine", traceparent=f"00-{TRACE}-{SPAN}-00"))
    number = r"\d+\.\d+"
    assert re.fullmatch(
        rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d,\d{{3}} \[{os.getpid()}\] INFO POST /v1/models/model:predict 200 {number}"
        rf" ms model=model/1 decode={number} queue={number} inference={number} encode={number} batch=1 in=20 out=21"
        rf" request=mine trace={TRACE} span={SPAN}",
        line,
    )
    _, line = clients.send(b"no HTTP\r\n\r\n")
    assert re.search(r" INFO - - 400 \d+\.\d+ ms in=0 out=\d+ request=[0-9a-f]+$", line)


def test_rows_of_a_batch_and_bytes_on_the_wire_are_counted(clients: Clients) -> None:
    packed = zlib.compress(ROW)
    sent = raw(), raw(body=b'{"instances": [1, 2, 3]}'), raw(body=packed, Content_Encoding="deflate")
    head, *lines = sorted(clients.send_json(*sent, raw("HEAD /v1/models", b"")), key=lambda line: line["method"])
    assert "bytes_out" not in head
    counted = sorted((line["bytes_in"], line["batch_size"]) for line in lines)
    assert counted == [(len(ROW), 4), (24, 4), (len(packed), 1)]


@pytest.mark.parametrize(
    ("sent", "status", "path"),
    [
        (raw("POST /v1/models/nowhere:predict"), 404, "/v1/models/nowhere:predict"),
        (raw("GET /nowhere", b""), 404, "/nowhere"),
        (raw(body=b"x" * 1001)[:200], 413, "/v1/models/model:predict"),
        (b"GET /a b c\r\n\r\n", 400, "/a"),
        (b"GET /" + b"x" * 70_000, 431, "/" + "x" * (MAX_PATH_BYTES - 1)),
    ],
    ids=["model", "path", "body", "request line", "head"],
)
def test_rejected_request_is_logged(clients: Clients, sent: bytes, status: int, path: str) -> None:
    (line,) = clients.send_json(sent)
    assert (line["status"], line["path"], line["level"]) == (status, path, "info")


def test_client_that_leaves_is_499(clients: Clients) -> None:
    (line,) = clients.send_json(raw(), leaves=True)
    assert line["status"] == 499
    assert "bytes_out" not in line


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_request_can_forge_a_line(tmp_path: Path, log_format: str) -> None:
    clients = Clients(tmp_path, log_format=log_format)
    (before,) = clients.send(raw("GET /%0AERROR", b"", X_Request_ID="x status=200"))
    assert "status=200" not in before

    async def answer() -> None:
        # As a more lenient parser may let through.
        clients.request_log.answered(request(b"/v1/models/\x9b2J\n\x1b[2J:predict?\xff"), 404, 0)

    asyncio.run(answer())
    _, line = clients.send()
    path = r"/v1/models/\x9b2J\n\x1b[2J:predict"
    assert line.isascii()
    assert line.isprintable()
    assert json.dumps(path) in line if log_format == "json" else f" POST {path} 404 " in line


@pytest.mark.parametrize("share", [0.0, 0.5, 0.51, 1.0])
def test_share_of_requests_and_each_bug_is_logged(tmp_path: Path, share: float) -> None:
    clients = Clients(tmp_path, log_sample=share)
    lines = clients.send_json(raw(), raw("POST /v1/models/nowhere:predict"), raw(BROKEN))
    assert sorted(line["status"] for line in lines) == ([200, 404, 500] if share > 0.5 else [500])


@pytest.mark.parametrize(
    ("level", "shown"),
    [("debug", [200, 200, 200, 200, 500]), ("info", [200, 500]), ("warning", [500]), ("error", [500])],
)
def test_level_says_which_requests_are_logged(tmp_path: Path, level: str, shown: list[int]) -> None:
    operations = [raw(f"GET {path}", b"") for path in ("/v2/health/live", "/v2/health/ready", "/metrics?x")]
    lines = Clients(tmp_path, log_level=level).send_json(raw(), *operations, raw(BROKEN))
    assert sorted(line["status"] for line in lines) == shown
    assert {line["level"] for line in lines if line["status"] == 500} == {"error"}


def test_lines_are_written_together_soon_and_after_a_bug_at_once() -> None:
    written: asyncio.Queue[bytes] = asyncio.Queue()

    async def scenario() -> list[bytes]:
        log = RequestLog(Settings(), written.put_nowait)
        for status in (*[200] * 2 * FORMATTED_TOGETHER, 429, 503):
            log.answered(request(b"/v1/models/m:predict"), status, 0)
        await asyncio.sleep(0)
        assert written.empty()
        log.answered(request(b"/v1/models/m:predict"), 500, 0)
        await asyncio.sleep(0)
        assert written.qsize() == 1
        log.answered(request(b"/v1/models/m:predict"), 404, 0)
        await asyncio.sleep(0)
        return [await asyncio.wait_for(written.get(), 10) for _ in range(2)]

    first, last = asyncio.run(scenario())
    assert re.findall(rb" (\d{3}) \S+ ms ", first) == [b"200"] * 2 * FORMATTED_TOGETHER + [b"429", b"503", b"500"]
    assert re.findall(rb" (\d{3}) \S+ ms ", last) == [b"404"]
