"""OpenVINO Model Server's Python client (its HTTP side speaks TensorFlow Serving's REST API) against the service at
SERVICE_ADDRESS, which serves the shipped models."""

import os

import numpy as np
import pytest
from ovmsclient import make_http_client
from ovmsclient.tfs_compat.base.errors import InvalidInputError, ModelNotFoundError

client = make_http_client(os.environ["SERVICE_ADDRESS"])


def test_the_status_of_a_version() -> None:
    status = client.get_model_status("regression", model_version=1)
    assert status == {1: {"state": "AVAILABLE", "error_code": 0, "error_message": ""}}


def test_the_metadata_of_a_version() -> None:
    metadata = client.get_model_metadata("regression", model_version=1)
    assert metadata["model_spec"]["version"] == "1"
    assert "serving_default" in metadata["metadata"]["signature_def"]["signature_def"]


@pytest.mark.parametrize("x", [np.array([10, 0], np.float32), [10.0, 0.0]])
def test_predict_with_arrays_and_lists(x: object) -> None:
    np.testing.assert_allclose(client.predict({"x": x}, "regression", model_version=1), [31, 1], rtol=1e-4)


def test_predict_with_a_batch_of_pictures_as_tensors() -> None:
    scores = client.predict({"pixels": np.zeros((2, 28, 28), np.float32)}, "clothing", model_version=1)
    assert scores.shape == (2, 10)


def test_refusals_come_as_the_client_s_own_errors() -> None:
    with pytest.raises(InvalidInputError, match="input"):
        client.predict({"z": [1.0]}, "regression", model_version=1)
    with pytest.raises(ModelNotFoundError, match="Servable not found"):
        client.predict({"x": [1.0]}, "nowhere", model_version=1)
