"""What a client is told when something goes wrong: nothing of the machine, its folders, its code, its versions."""

import importlib.metadata
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.models import VERSION_1
from tests.integration.server import DEADLINE_SECONDS, EAGER, ROOT, SHIPPED, Server, running

JSON = "application/json"
# Of those that could tell an attacker what they are vulnerable to.
LIBRARIES = {"ai-edge-litert", "flask", "gunicorn", "httptools", "numpy", "pillow", "tensorflow-cpu", "werkzeug"}


def make_a_folder(path: Path) -> None:
    """What nobody foresaw: to read it is an OSError, with the path in it."""
    path.unlink()
    path.mkdir()


# Versions that cannot be loaded, each for another reason.
DAMAGES: dict[str, Callable[[Path], object]] = {
    "damaged": lambda version: (version / "saved_model.pb").write_bytes(b"\xffnot a protocol buffer"),
    "no_graph": lambda version: (version / "saved_model.pb").write_bytes(b""),
    "lost": lambda version: shutil.rmtree(version / "variables"),
    "twin": lambda version: (version / "assets.extra/model.tflite").write_bytes(b"not a twin"),
    "settings": lambda version: (version / "assets.extra/serving.json").write_text("{"),
    "folder": lambda version: make_a_folder(version / "assets.extra/serving.json"),
    "warm_up": lambda version: (version / "assets.extra/tf_serving_warmup_requests").write_bytes(b"no records"),
}


@pytest.fixture
def models(models: Path) -> Path:
    """The shipped regression, and its damaged copies."""
    for name, damage in DAMAGES.items():
        version = shutil.copytree(VERSION_1, models / name / "1")
        if name in ("damaged", "no_graph", "lost"):
            shutil.rmtree(version / "assets.extra")
        damage(version)
    return models


def requests() -> Iterator[tuple[str, object, str]]:
    for path in ("/v1/models", "/nowhere", "/playground/models", "/static/..%2F..%2Fsettings"):
        yield path, None, JSON
    yield "/playground/models/regression/versions/1/files/..%2Fsaved_model.pb", None, JSON
    for path in ("/v2/x", "/v2/repository/index"):
        yield path, b"", JSON
    for model in ("regression", *DAMAGES):
        place = f"/v1/models/{model}"
        for path in (place, f"{place}/versions/1", f"{place}/metadata", f"/v2/models/{model}"):
            yield path, None, JSON
        yield f"{place}:predict", {"instances": [1.0]}, JSON
        yield f"/v2/repository/models/{model}/load", b"", JSON
        yield f"/playground/models/{model}/versions/1", None, JSON
    predict = "/v1/models/regression:predict"
    for body in (b"", b"{", b"\xff", b"[]", b"[" * 5000, {"instances": "x"}, {"inputs": {"y": [1]}}, bytes(10_001)):
        yield predict, body, JSON
    yield predict, {"instances": [1.0], "signature_name": "no"}, JSON
    yield predict, (SHIPPED / "clothing/2/assets.extra/sample.png").read_bytes()[:100], "image/png"
    yield predict, b"x", "multipart/form-data"
    for place in ("versions/x", "labels/x"):
        yield f"/v1/models/regression/{place}:predict", {"instances": [1.0]}, JSON
    for empty in (b"", b"{}", {"inputs": [{"name": "x"}]}):
        yield "/v2/models/regression/infer", empty, JSON


RAW = (
    b"nonsense\r\n\r\n",
    b"GET / HTTP/1.1\r\nA\x00: b\r\n\r\n",
    b"GET /" + b"x" * 70_000,
    b"DELETE /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"PUT /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"POST /v1/models HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Encoding: br\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx",
)


def answers(server: Server) -> Iterator[tuple[str, str]]:
    """Each request, and the whole answer, head and body."""
    for path, body, content_type in requests():
        answer = server.request(path, body, content_type)
        yield path, f"{dict(answer.headers)}\n{answer.body.decode(errors='replace')}"
    for request in RAW:
        with socket.create_connection(("127.0.0.1", server.port), DEADLINE_SECONDS) as connection:
            connection.sendall(request)
            yield repr(request[:40]), b"".join(iter(lambda: connection.recv(65536), b"")).decode(errors="replace")


def test_no_answer_to_a_mistake_tells_of_the_machine(models: Path, tmp_path: Path) -> None:
    telling = {
        *map(str, (tmp_path, tmp_path.parent, ROOT)),
        *(sys.prefix, sys.base_prefix, sys.version.split()[0]),
        *("site-packages", "Traceback", ".py:", '.py",'),
        *(found.version for found in importlib.metadata.distributions() if found.name.lower() in LIBRARIES),
    }
    # What has no twin is loaded by TensorFlow.
    with running(models, tmp_path / "log", admin=1, max_body_bytes=10_000, poll_seconds=EAGER) as server:
        for request, answer in answers(server):
            assert not [word for word in telling if word in answer], (request, answer)
            assert not re.search(r"0x[0-9a-f]{6}|\.(?:c|cc|cpp|h|pyx):\d+", answer), (request, answer)
