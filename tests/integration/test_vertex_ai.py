"""Vertex AI, as its requirements for custom containers say it starts a container and what it sends."""

import shutil
from pathlib import Path

import pytest

from tests.integration.models import VERSION_1
from tests.integration.server import free_port, started

ENDPOINT = "/v1/endpoints/4711/deployedModels/42"


def test_routes_of_the_platform(tmp_path: Path) -> None:
    """With the SavedModel itself in the folder that Vertex AI names, as its own containers take it."""
    port = free_port()
    shutil.copytree(VERSION_1, tmp_path / "artifacts")
    variables = {
        "AIP_HTTP_PORT": str(port),
        "AIP_HEALTH_ROUTE": ENDPOINT,
        "AIP_PREDICT_ROUTE": f"{ENDPOINT}:predict",
        "AIP_STORAGE_URI": str(tmp_path / "artifacts"),
        "AIP_MODE": "PREDICTION",
        "TMPDIR": str(tmp_path),
        "AIP_DEPLOYED_MODEL_ID": "42",
        # Of the image.
        "SERVING_PORT": "8501",
        "MODEL_BASE_PATH": "/models",
    }
    body = {"instances": [10.0, 0.0], "parameters": {"any": 1}}
    with started(tmp_path, tmp_path / "log", port, [], variables) as server:
        assert server.request(ENDPOINT).status == 200
        response = server.request(f"{ENDPOINT}:predict", body)
        assert (response.status, response.headers["content-type"]) == (200, "application/json")
        assert response.json() == {"predictions": pytest.approx([31, 1], abs=1e-4)}
        refused = server.request(f"{ENDPOINT}:predict", {"instances": ["ten"]})
        assert (refused.status, list(refused.json())) == (400, ["error"])
        assert server.request("/v1/endpoints/4711/deployedModels/43:predict", body).status == 400
        labels = 'model="model",protocol="vertex_ai",status="200",verb="predict",version="1"'
        server.wait_for(lambda: server.sample(f"serving_requests_total{{{labels}}}") == 1, "not counted")
