"""Triton's own Python client loads and unloads models of the service at SERVICE_ADDRESS, which runs with
SERVING_ADMIN=1 and several worker processes."""

import os
from collections.abc import Iterator

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

ASKED = 10


@pytest.fixture
def client() -> Iterator[InferenceServerClient]:
    with InferenceServerClient(os.environ["SERVICE_ADDRESS"]) as client:
        yield client


def found_ready() -> set[bool]:
    """What several connections are told, so that every worker process responds."""
    answers = set()
    for _ in range(ASKED):
        with InferenceServerClient(os.environ["SERVICE_ADDRESS"]) as one:
            answers.add(one.is_model_ready("regression"))
    return answers


def state(client: InferenceServerClient) -> tuple[str, str]:
    (entry,) = (entry for entry in client.get_model_repository_index() if entry["name"] == "regression")
    return entry["state"], entry["reason"]


def test_a_model_is_unloaded_and_loaded_again_in_all_worker_processes(client: InferenceServerClient) -> None:
    assert found_ready() == {True}
    client.unload_model("regression")
    assert found_ready() == {False}
    assert state(client) == ("UNAVAILABLE", "unloaded")
    given = InferInput("x", [1], "FP32").set_data_from_numpy(np.array([10], np.float32))
    with pytest.raises(InferenceServerException, match="regression"):
        client.infer("regression", [given])
    client.load_model("regression")
    assert found_ready() == {True}
    assert state(client) == ("READY", "")
    np.testing.assert_allclose(client.infer("regression", [given]).as_numpy("y"), [31], rtol=1e-4)


def test_a_model_that_is_not_there_can_be_neither_loaded_nor_unloaded(client: InferenceServerClient) -> None:
    for ask in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException) as caught:
            ask("nowhere")
        assert caught.value.status() == "404"
