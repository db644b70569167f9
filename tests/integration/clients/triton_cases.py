"""Triton's own Python client against the service at SERVICE_ADDRESS, which serves the shipped models."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

X = np.array([10, 0], np.float32)


@pytest.fixture
def client() -> Iterator[InferenceServerClient]:
    with InferenceServerClient(os.environ["SERVICE_ADDRESS"], concurrency=8) as client:
        yield client


def tensor(name: str, array: "np.ndarray[Any, Any]", binary_data: bool = True) -> InferInput:
    given = InferInput(name, list(array.shape), "FP32")
    given.set_data_from_numpy(array, binary_data=binary_data)
    return given


def pixels(rows: int) -> InferInput:
    return tensor("pixels", np.zeros((rows, 28, 28), np.float32))


def test_server_and_models_are_live_and_ready(client: InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("regression")
    assert client.is_model_ready("regression", "1")
    assert not client.is_model_ready("regression", "99")
    assert not client.is_model_ready("nowhere")


def test_metadata_configuration_and_index(client: InferenceServerClient) -> None:
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("clothing", "1")
    assert metadata["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": [-1, 28, 28]}]
    assert metadata["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}]
    config = client.get_model_config("clothing")
    assert config["max_batch_size"] > 0
    assert (config["input"][0]["data_type"], config["input"][0]["dims"]) == ("TYPE_FP32", [28, 28])
    index = {(entry["name"], entry["version"]): entry["state"] for entry in client.get_model_repository_index()}
    assert index["regression", "1"] == index["clothing", "1"] == "READY"


def test_default_request_is_binary_both_ways(client: InferenceServerClient) -> None:
    result = client.infer("regression", [tensor("x", X)], request_id="42")
    assert result.get_response()["id"] == "42"
    assert result.get_output("y")["parameters"] == {"binary_data_size": 8}
    np.testing.assert_allclose(result.as_numpy("y"), [31, 1], rtol=1e-4)


@pytest.mark.parametrize(("binary_in", "binary_out"), [(True, False), (False, True)])
def test_tensor_comes_in_the_requested_form(client: InferenceServerClient, binary_in: bool, binary_out: bool) -> None:
    outputs = [InferRequestedOutput("y", binary_data=binary_out)]
    result = client.infer("regression", [tensor("x", X, binary_in)], outputs=outputs, model_version="1")
    assert ("data" in result.get_output("y")) != binary_out
    np.testing.assert_allclose(result.as_numpy("y"), [31, 1], rtol=1e-4)


@pytest.mark.parametrize("binary_data", [True, False])
def test_classification(client: InferenceServerClient, binary_data: bool) -> None:
    outputs = [InferRequestedOutput("probabilities", binary_data=binary_data, class_count=3)]
    best = client.infer("clothing", [pixels(2)], outputs=outputs).as_numpy("probabilities")
    assert best.shape == (2, 3)
    for row in best:
        texts = [value.decode() if isinstance(value, bytes) else value for value in row]
        scores = [float(text.split(":")[0]) for text in texts]
        assert scores == sorted(scores, reverse=True)
        assert all(len(text.split(":")) == 3 for text in texts)


@pytest.mark.parametrize("algorithm", [None, "gzip"])
def test_batch_of_pictures_compressed_and_plain(client: InferenceServerClient, algorithm: str | None) -> None:
    coding = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
    scores = client.infer("clothing", [pixels(64)], **coding).as_numpy("probabilities")
    assert scores.shape == (64, 10)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-4)


def test_requests_side_by_side(client: InferenceServerClient) -> None:
    pending = [client.async_infer("regression", [tensor("x", np.array([number], np.float32))]) for number in range(64)]
    answers = [result.get_result().as_numpy("y")[0] for result in pending]
    np.testing.assert_allclose(answers, [3 * number + 1 for number in range(64)], rtol=1e-3, atol=1e-3)


def test_refusal_is_the_clients_own_error(client: InferenceServerClient) -> None:
    given = InferInput("x", [1], "FP64")
    given.set_data_from_numpy(np.array([1.0]))
    with pytest.raises(InferenceServerException, match="the datatype 'FP64'; expected 'FP32'") as caught:
        client.infer("regression", [given])
    assert caught.value.status() == "400"
    with pytest.raises(InferenceServerException, match="no such model"):
        client.get_model_metadata("nowhere")
    for ask in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="SERVING_ADMIN=1 turns it on") as caught:
            ask("regression")
        assert caught.value.status() == "403"


def test_statistics_add_up(client: InferenceServerClient) -> None:
    def stats() -> Any:
        (found,) = client.get_inference_statistics("regression", "1")["model_stats"]
        return found

    before = stats()
    for _ in range(20):
        client.infer("regression", [tensor("x", X)])
    after = stats()
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 20
    assert after["inference_count"] - before["inference_count"] == 40
    assert 0 < after["execution_count"] - before["execution_count"] <= 20
