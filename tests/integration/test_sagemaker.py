"""Amazon SageMaker, as its contracts for containers say it starts one and what it sends."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.models import VERSION_1
from tests.integration.server import SHIPPED, Answer, Server, ask, free_port, started

CLOTHING = SHIPPED / "clothing" / "2"


def start(folder: Path, workers: int, **variables: str) -> Any:
    port = free_port()
    given = {
        "SAGEMAKER_BIND_TO_PORT": str(port),
        "SAGEMAKER_SAFE_PORT_RANGE": "40000-40999",
        "SAGEMAKER_BASE_DIR": str(folder),
        "TMPDIR": str(folder),
        "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
        # Of the image.
        "SERVING_PORT": "8501",
        "SERVING_GRPC_PORT": "8500",
        "MODEL_BASE_PATH": "/models",
        **variables,
    }
    return started(folder, folder / "log", port, ["serve"], given, workers=workers, poll_seconds=0.25)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("ml")
    for number in (1, 2):
        shutil.copytree(VERSION_1, folder / "model" / "export" / "Servo" / str(number))
    shutil.copytree(CLOTHING, folder / "model" / "clothing" / "7")
    (folder / "model" / "code").mkdir()
    with start(folder, 1, SAGEMAKER_TFS_DEFAULT_MODEL_NAME="Servo") as server:
        yield server


def invoke(
    server: Server, body: object, content_type: str = "application/json", attributes: str = "", accept: str = ""
) -> Answer:
    given = {"X-Amzn-SageMaker-Custom-Attributes": attributes, "Accept": accept}
    headers = {name: value for name, value in given.items() if value}
    return server.request("/invocations", body, content_type, headers=headers)


def test_invocation(server: Server) -> None:
    assert server.request("/ping").status == 200
    response = invoke(server, b"10\n0.0\n", "text/csv")
    assert (response.status, response.json()) == (200, {"predictions": pytest.approx([31, 1], abs=1e-4)})


def test_model_version_and_method_by_attributes(server: Server) -> None:
    picture = next(CLOTHING.glob("assets.extra/samples/*.png")).read_bytes()
    response = invoke(server, picture, "image/png", "tfs-model-name=clothing,tfs-model-version=7,tfs-method=classify")
    assert response.status == 200
    ((best, *_),) = response.json()["results"]
    assert isinstance(best[0], str)
    assert invoke(server, {"instances": [1.0]}, attributes="tfs-model-version=1").status == 200
    assert invoke(server, {"instances": [1.0]}, attributes="tfs-model-version=3").status == 404
    assert invoke(server, {"instances": [1.0]}, attributes="tfs-method=explain").status == 400


def test_accept(server: Server) -> None:
    response = invoke(server, b"10\n0\n", "text/csv", accept="application/jsonlines")
    assert response.headers["content-type"] == "application/jsonlines"
    assert len(response.body.splitlines()) == 1


class Platform:
    """The calls to a multi-model container."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def load(self, name: str, url: Path) -> Answer:
        return self.server.request("/models", {"model_name": name, "url": str(url)})

    def list(self) -> list[str]:
        return [model["modelName"] for model in self.server.request("/models").json()["models"]]

    def unload(self, name: str) -> Answer:
        return ask(self.server.port, f"/models/{name}", method="DELETE")

    def invoke(self, name: str) -> Answer:
        headers = {"X-Amzn-SageMaker-Target-Model": f"{name}.tar.gz"}
        return self.server.request(f"/models/{name}/invoke", {"instances": [10.0]}, headers=headers)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with start(tmp_path_factory.mktemp("ml"), 2, SAGEMAKER_MULTI_MODEL="true") as server:
        yield Platform(server)


def extracted(platform: Platform, name: str, version: str = "1") -> Path:
    """Where the platform extracts a model's archive."""
    url = platform.server.models / "models" / name / "model"
    shutil.copytree(VERSION_1, url / version)
    return url


def test_models_are_loaded_and_unloaded(platform: Platform) -> None:
    # A container without a model is healthy.
    assert platform.server.request("/ping").status == 200
    first, second = extracted(platform, "first"), extracted(platform, "second", "export/Servo/3")
    assert platform.invoke("first").status == 404
    assert [platform.load("first", first).status, platform.load("second", second).status] == [200, 200]
    # Whichever worker responds.
    assert {platform.invoke(name).status for name in ("first", "second") * 10} == {200}
    assert platform.list() == ["first", "second"]
    assert platform.server.request("/models/first").json() == {"modelName": "first", "modelUrl": str(first)}
    assert platform.load("first", first).status == 409
    assert platform.unload("first").status == 200
    shutil.rmtree(first)
    assert {platform.invoke("first").status for _ in range(10)} == {404}
    assert platform.list() == ["second"]
    assert platform.server.request("/models/first").status == platform.unload("first").status == 404
    assert platform.load("first", extracted(platform, "first")).status == 200
    assert platform.unload("first").status == platform.unload("second").status == 200


def test_model_that_cannot_be_loaded(platform: Platform) -> None:
    damaged = extracted(platform, "damaged")
    shutil.rmtree(damaged / "1/assets.extra")
    (damaged / "1/saved_model.pb").write_bytes(b"\xff")
    assert platform.load("damaged", damaged).status == 400
    assert platform.load("missing", damaged.parent / "nowhere").status == 404
    assert platform.list() == []
    shutil.rmtree(damaged)
    assert platform.load("damaged", extracted(platform, "damaged")).status == 200
