"""KServe's clients against the service at SERVICE_ADDRESS, which serves the shipped models."""

import asyncio
import os
from typing import Any

import httpx
import numpy as np
import pytest
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

BASE = f"http://{os.environ['SERVICE_ADDRESS']}"
X = np.array([10, 0], np.float32)


def ask(protocol: str, method: str, *arguments: Any, **named: Any) -> Any:
    async def run() -> Any:
        async with InferenceRESTClient(RESTConfig(protocol=protocol, retries=0)) as client:
            return await getattr(client, method)(BASE, *arguments, **named)

    return asyncio.run(run())


def test_server_and_models_are_live_and_ready() -> None:
    assert ask("v2", "is_server_live") is True
    assert ask("v2", "is_server_ready") is True
    assert ask("v2", "is_model_ready", "regression") is True
    assert ask("v2", "is_model_ready", "nowhere") is False


def test_v1_predict() -> None:
    answer = ask("v1", "infer", {"instances": [10.0, 0.0]}, model_name="regression")
    np.testing.assert_allclose(answer["predictions"], [31, 1], rtol=1e-4)


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_v2_infer_with_tensors_in_either_form(binary_in: bool, binary_out: bool) -> None:
    given = InferInput("x", [2], "FP32")
    given.set_data_from_numpy(X, binary_data=binary_in)
    request = InferRequest("regression", [given], request_id="42", parameters={"binary_data_output": binary_out})
    answer = ask("v2", "infer", request, model_name="regression")
    assert (answer.id, answer.model_name) == ("42", "regression")
    (output,) = answer.outputs
    assert (output.name, output.datatype, output.shape) == ("y", "FP32", [2])
    np.testing.assert_allclose(output.as_numpy(), [31, 1], rtol=1e-4)


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_refusal_is_the_clients_own_error(protocol: str) -> None:
    with pytest.raises(httpx.HTTPStatusError, match=r"the body is|missing|Missing") as caught:
        ask(protocol, "infer", {}, model_name="regression")
    assert caught.value.response.status_code == 400
    with pytest.raises(httpx.HTTPStatusError, match="no such model"):
        ask(protocol, "infer", {}, model_name="nowhere")


@pytest.mark.parametrize("is_binary", [True, False])
def test_client_of_grpc(is_binary: bool) -> None:
    async def run() -> None:
        client = InferenceGRPCClient(url=os.environ["SERVICE_ADDRESS"])
        given = InferInput("x", list(X.shape), "FP32")
        given.set_data_from_numpy(X, binary_data=is_binary)
        answer = await client.infer(InferRequest(model_name="regression", infer_inputs=[given]))
        np.testing.assert_allclose(answer.outputs[0].as_numpy(), [31, 1], rtol=1e-4)
        assert await client.is_server_ready()
        assert await client.is_model_ready("regression")

    asyncio.run(run())
