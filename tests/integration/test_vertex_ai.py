"""Vertex AI, as its requirements for custom containers say it starts a container and what it sends."""

import shutil
from collections.abc import Iterator

import pytest

from tests.integration.models import VERSION_1
from tests.integration.server import Server, free_port, started

ENDPOINT = "/v1/endpoints/4711/deployedModels/42"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With the SavedModel itself in the folder that Vertex AI names, as its own containers take it."""
    folder, port = tmp_path_factory.mktemp("vertex"), free_port()
    shutil.copytree(VERSION_1, folder / "artifacts")
    variables = {
        "AIP_HTTP_PORT": str(port),
        "AIP_HEALTH_ROUTE": ENDPOINT,
        "AIP_PREDICT_ROUTE": f"{ENDPOINT}:predict",
        "AIP_STORAGE_URI": str(folder / "artifacts"),
        "AIP_MODE": "PREDICTION",
        "TMPDIR": str(folder),
        "AIP_DEPLOYED_MODEL_ID": "42",
        # Of the image.
        "SERVING_PORT": "8501",
        "MODEL_BASE_PATH": "/models",
    }
    with started(folder, folder / "log", port, [], variables, workers=2) as server:
        yield server


def test_health_route(server: Server) -> None:
    assert server.request(ENDPOINT).status == 200


def test_predict_route(server: Server) -> None:
    response = server.request(f"{ENDPOINT}:predict", {"instances": [10.0, 0.0], "parameters": {"any": 1}})
    assert (response.status, response.headers["content-type"]) == (200, "application/json")
    assert response.json() == {"predictions": pytest.approx([31, 1], abs=1e-4)}


def test_errors(server: Server) -> None:
    response = server.request(f"{ENDPOINT}:predict", {"instances": ["ten"]})
    assert response.status == 400
    assert list(response.json()) == ["error"]
    assert server.request("/v1/endpoints/4711/deployedModels/43:predict", {"instances": [1.0]}).status == 400


def test_requests_are_counted(server: Server) -> None:
    labels = 'model="model",protocol="vertex_ai",status="200",verb="predict",version="1"'
    before = server.sample(f"serving_requests_total{{{labels}}}")
    server.request(f"{ENDPOINT}:predict", {"instances": [10.0]})
    server.wait_for(lambda: server.sample(f"serving_requests_total{{{labels}}}") == before + 1, "not counted")
