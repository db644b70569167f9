"""Triton's own Python client against SavedModels of other kinds (tests/integration/saved_models.py).

Run in .venv/clients by tests/integration/test_clients.py.
"""

import os
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32"]


@pytest.fixture
def client() -> Iterator[InferenceServerClient]:
    with InferenceServerClient(os.environ["SERVICE_ADDRESS"]) as client:
        yield client


def tensor(name: str, array: "np.ndarray[Any, Any]", binary_data: bool = True) -> InferInput:
    given = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    given.set_data_from_numpy(array, binary_data=binary_data)
    return given


@pytest.mark.parametrize("binary_data", [True, False])
@pytest.mark.parametrize("dtype", [*DTYPES, "float64"])
def test_every_datatype_comes_back_as_it_went(client: InferenceServerClient, dtype: str, binary_data: bool) -> None:
    if dtype == "float16" and not binary_data:
        pytest.skip("the client refuses to send FP16 as JSON")
    array = np.array([[0, 1], [1, 100]]).astype(dtype)
    outputs = [InferRequestedOutput("x", binary_data=binary_data)]
    result = client.infer(f"identity_{dtype}", [tensor("x", array, binary_data)], outputs=outputs)
    back = result.as_numpy("x")
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("binary_data", [True, False])
def test_bfloat16(client: InferenceServerClient, binary_data: bool) -> None:
    array = np.array([[1.5, -2.0]], ml_dtypes.bfloat16)
    outputs = [InferRequestedOutput("x", binary_data=binary_data)]
    result = client.infer("identity_bfloat16", [tensor("x", array)], outputs=outputs)
    assert result.get_output("x")["datatype"] == "BF16"
    np.testing.assert_array_equal(result.as_numpy("x").astype(np.float32), [[1.5, -2.0]])


@pytest.mark.parametrize("binary_data", [True, False])
def test_strings(client: InferenceServerClient, binary_data: bool) -> None:
    words = np.array(["shirt", "Füße", ""], object)
    outputs = [InferRequestedOutput(name, binary_data=binary_data) for name in ("upper", "id")]
    result = client.infer("vocabulary", [tensor("words", words, binary_data)], outputs=outputs)
    upper = [value if isinstance(value, str) else value.decode() for value in result.as_numpy("upper")]
    assert upper == ["SHIRT", "FüßE", ""]
    assert result.as_numpy("id").tolist() == [1, -1, -1]


def test_bytes_that_are_no_text_come_back_in_binary_data_only(client: InferenceServerClient) -> None:
    words = tensor("words", np.array([b"\xff\x00"], object))
    result = client.infer("vocabulary", [words], outputs=[InferRequestedOutput("raw_bytes")])
    assert result.as_numpy("raw_bytes").tolist() == [b"\xff\x00"]
    with pytest.raises(InferenceServerException, match="'binary_data': true"):
        client.infer("vocabulary", [words], outputs=[InferRequestedOutput("raw_bytes", binary_data=False)])


def test_inputs_and_outputs_of_both_forms_in_one_request(client: InferenceServerClient) -> None:
    inputs = [
        tensor("b", np.array([2, 1], np.int32)),
        tensor("a", np.array([1.0, 3.5], np.float32), binary_data=False),
    ]
    outputs = [InferRequestedOutput("difference", binary_data=False), InferRequestedOutput("sum")]
    result = client.infer("sum_and_difference", inputs, outputs=outputs)
    assert [output["name"] for output in result.get_response()["outputs"]] == ["difference", "sum"]
    assert result.as_numpy("sum").tolist() == [5.0, 5.5]
    assert result.as_numpy("difference").tolist() == [-1.0, 2.5]


def test_what_is_no_number_survives_in_binary_data(client: InferenceServerClient) -> None:
    back = client.infer("logarithm", [tensor("x", np.array([-1, 0], np.float32))]).as_numpy("y")
    assert np.isnan(back[0])
    assert np.isneginf(back[1])


def test_what_the_model_itself_refuses_is_the_client_s_fault(client: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="x is above 100") as caught:
        client.infer("logarithm", [tensor("x", np.array([101], np.float32))])
    assert caught.value.status() == "400"


def test_the_index_says_why_a_version_is_not_there(client: InferenceServerClient) -> None:
    (damaged,) = (entry for entry in client.get_model_repository_index() if entry["name"] == "damaged")
    assert damaged["state"] == "UNAVAILABLE"
    assert damaged["reason"]
