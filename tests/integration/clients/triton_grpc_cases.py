"""Triton's own client of gRPC against the service at SERVICE_ADDRESS, which serves the shipped models."""

import os
import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput

ADDRESS = os.environ["SERVICE_ADDRESS"]
X = np.array([10, 0], np.float32)
PIXELS = np.zeros((2, 28, 28), np.float32)


@pytest.fixture
def client() -> Iterator[InferenceServerClient]:
    with InferenceServerClient(ADDRESS) as client:
        yield client


def tensor(name: str, array: "np.ndarray[Any, Any]") -> InferInput:
    given = InferInput(name, list(array.shape), "FP32")
    given.set_data_from_numpy(array)
    return given


def test_health_metadata_and_index(client: InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("regression", "1")
    assert not client.is_model_ready("nowhere")
    assert [tuple(each.shape) for each in client.get_model_metadata("clothing").inputs] == [(-1, 28, 28)]
    assert client.get_model_config("clothing").config.max_batch_size > 0
    assert "regression" in {each.name for each in client.get_model_repository_index().models}
    assert client.get_inference_statistics("regression").model_stats[0].name == "regression"


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_infer(client: InferenceServerClient, compression: str | None) -> None:
    result = client.infer("regression", [tensor("x", X)], request_id="7", compression_algorithm=compression)
    assert result.get_response().id == "7"
    np.testing.assert_allclose(result.as_numpy("y"), [31, 1], rtol=1e-4)


def test_best_classes(client: InferenceServerClient) -> None:
    wanted = [InferRequestedOutput("probabilities", class_count=2)]
    classes = client.infer("clothing", [tensor("pixels", PIXELS)], outputs=wanted).as_numpy("probabilities")
    assert classes.shape == (2, 2)
    assert len(classes[0, 0].split(b":")) == 3


def test_stream_goes_on_after_an_error(client: InferenceServerClient) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put(error or result.get_response().id))
    for model in ("regression", "nowhere", "regression"):
        client.async_stream_infer(model, [tensor("x", X)], request_id=model)
    first, error, last = (answers.get(timeout=30) for _ in range(3))
    client.stop_stream()
    assert (first, last) == ("regression", "regression")
    assert "Servable not found" in str(error)
