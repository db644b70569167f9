"""What a client is told when something goes wrong: nothing of the machine, its folders, its code, its versions."""

import base64
import importlib.metadata
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.server import SHIPPED, Server, running

JSON = "application/json"
# Of those that could tell an attacker what they are vulnerable to.
LIBRARIES = {"ai-edge-litert", "flask", "gunicorn", "httptools", "numpy", "pillow", "tensorflow-cpu", "werkzeug"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped regression, and versions that cannot be loaded, each for another reason."""
    models = tmp_path_factory.mktemp("models")
    regression = SHIPPED / "regression" / "1"
    shutil.copytree(regression, models / "regression" / "1")
    for name in ("damaged", "no_graph", "twin", "settings", "folder", "warm_up", "lost"):
        shutil.copytree(regression, models / name / "1")
        (models / name / "1/assets.extra/tf_serving_warmup_requests").unlink(missing_ok=True)
    for name in ("damaged", "no_graph", "lost"):
        shutil.rmtree(models / name / "1/assets.extra")
    (models / "damaged/1/saved_model.pb").write_bytes(b"\xffnot a protocol buffer")
    (models / "no_graph/1/saved_model.pb").write_bytes(b"")
    shutil.rmtree(models / "lost/1/variables")
    (models / "twin/1/assets.extra/model.tflite").write_bytes(b"not a twin")
    (models / "settings/1/assets.extra/serving.json").write_text("{")
    # What nobody foresaw: to read a folder is an OSError, with the path in it.
    (models / "folder/1/assets.extra/serving.json").unlink()
    (models / "folder/1/assets.extra/serving.json").mkdir()
    (models / "warm_up/1/assets.extra/tf_serving_warmup_requests").write_bytes(b"no records")
    return models


@pytest.fixture(scope="module", params=["litert", "tensorflow"])
def server(models: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("log") / "service.log"
    settings = {"admin": 1, "max_body_bytes": 10_000, "engine": request.param}
    with running(models, log, **settings) as started:
        yield started


def test_no_answer_to_a_mistake_tells_of_the_machine(server: Server, models: Path) -> None:
    answers = [*provoked(server, models), *raw(server)]
    assert len(answers) > 60
    telling = {
        str(models),
        str(models.parent),
        str(Path(__file__).parents[2]),
        sys.prefix,
        sys.base_prefix,
        "site-packages",
        "Traceback",
        ".py:",
        '.py",',
        sys.version.split()[0],
        *(found.version for found in importlib.metadata.distributions() if found.name.lower() in LIBRARIES),
    }
    for request, answer in answers:
        assert not [word for word in telling if word in answer], (request, answer)
        assert not re.search(r"0x[0-9a-f]{6}|\.(?:c|cc|cpp|h|pyx):\d+", answer), (request, answer)


def provoked(server: Server, models: Path) -> Iterator[tuple[str, str]]:
    """Each request, and the whole answer, head and body."""
    picture = base64.b64encode((SHIPPED / "clothing/2/assets.extra/sample.png").read_bytes()[:100])
    requests: list[tuple[str, object, str]] = [
        ("/v1/models", None, JSON),
        ("/nowhere", None, JSON),
        ("/v2/x", b"", JSON),
    ]
    for model in sorted(path.name for path in models.iterdir()):
        place = f"/v1/models/{model}"
        requests += [
            (path, None, JSON) for path in (place, f"{place}/versions/1", f"{place}/metadata", f"/v2/models/{model}")
        ]
        requests += [
            (f"{place}:predict", {"instances": [1.0]}, JSON),
            (f"/v2/repository/models/{model}/load", b"", JSON),
        ]
        requests += [(f"/playground/models/{model}/versions/1", None, JSON)]
    requests += [("/v2/repository/index", b"", JSON), ("/playground/models", None, JSON)]
    predict = "/v1/models/regression:predict"
    wrong = (b"", b"{", b"\xff", b"[]", b"[" * 5000, {"instances": "x"}, {"inputs": {"y": [1]}})
    requests += [(predict, body, JSON) for body in wrong]
    requests += [(predict, {"instances": [1.0], "signature_name": "no"}, JSON), (predict, bytes(10_001), JSON)]
    requests += [(predict, base64.b64decode(picture), "image/png"), (predict, b"x", "multipart/form-data")]
    requests += [("/v1/models/regression/versions/x:predict", {"instances": [1.0]}, JSON)]
    requests += [("/v1/models/regression/labels/x:predict", {"instances": [1.0]}, JSON)]
    requests += [("/v2/models/regression/infer", body, JSON) for body in (b"", b"{}", {"inputs": [{"name": "x"}]})]
    requests += [("/playground/models/regression/versions/1/files/..%2Fsaved_model.pb", None, JSON)]
    requests += [("/static/..%2F..%2Fsettings", None, JSON)]
    for path, body, content_type in requests:
        answer = server.request(path, body, content_type)
        yield path, f"{dict(answer.headers)}\n{answer.body.decode(errors='replace')}"


def raw(server: Server) -> Iterator[tuple[str, str]]:
    for request in (
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nA\x00: b\r\n\r\n",
        b"GET /" + b"x" * 70_000,
        b"DELETE /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"PUT /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Encoding: br\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx",
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            connection.sendall(request)
            yield repr(request[:40]), b"".join(iter(lambda: connection.recv(65536), b"")).decode(errors="replace")
