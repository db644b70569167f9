"""Triton's own Python client against SavedModels of other kinds (tests/integration/saved_models.py)."""

import os
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

INTEGERS = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


@pytest.fixture
def client() -> Iterator[InferenceServerClient]:
    with InferenceServerClient(os.environ["SERVICE_ADDRESS"]) as client:
        yield client


@pytest.fixture(params=[True, False], ids=["binary", "JSON"])
def binary_data(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def tensor(name: str, array: "np.ndarray[Any, Any]", binary_data: bool = True) -> InferInput:
    given = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    given.set_data_from_numpy(array, binary_data=binary_data)
    return given


def infer(client: InferenceServerClient, model: str, *inputs: InferInput, **outputs: bool) -> InferResult:
    """`outputs`: whether each is wanted as binary data."""
    wanted = [InferRequestedOutput(name, binary_data=binary_data) for name, binary_data in outputs.items()]
    return client.infer(model, list(inputs), outputs=wanted)


@pytest.mark.parametrize("dtype", [*INTEGERS, "float16", "float32", "float64"])
def test_every_datatype_comes_back_as_it_went(client: InferenceServerClient, dtype: str, binary_data: bool) -> None:
    if dtype == "float16" and not binary_data:
        pytest.skip("the client refuses to send FP16 as JSON")
    array = np.array([[0, 1], [1, 100]]).astype(dtype)
    back = infer(client, f"identity_{dtype}", tensor("x", array, binary_data), x=binary_data).as_numpy("x")
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_bfloat16(client: InferenceServerClient, binary_data: bool) -> None:
    array = np.array([[1.5, -2.0]], ml_dtypes.bfloat16)
    result = infer(client, "identity_bfloat16", tensor("x", array), x=binary_data)
    assert result.get_output("x")["datatype"] == "BF16"
    np.testing.assert_array_equal(result.as_numpy("x").astype(np.float32), [[1.5, -2.0]])


def test_strings(client: InferenceServerClient, binary_data: bool) -> None:
    words = tensor("words", np.array(["shirt", "Füße", ""], object), binary_data)
    result = infer(client, "vocabulary", words, upper=binary_data, id=binary_data)
    upper = [value if isinstance(value, str) else value.decode() for value in result.as_numpy("upper")]
    assert upper == ["SHIRT", "FüßE", ""]
    assert result.as_numpy("id").tolist() == [1, -1, -1]


def test_bytes_that_are_no_text_need_binary_data(client: InferenceServerClient) -> None:
    words = tensor("words", np.array([b"\xff\x00"], object))
    assert infer(client, "vocabulary", words, raw_bytes=True).as_numpy("raw_bytes").tolist() == [b"\xff\x00"]
    with pytest.raises(InferenceServerException, match="'binary_data': true"):
        infer(client, "vocabulary", words, raw_bytes=False)


def test_both_forms_in_one_request(client: InferenceServerClient) -> None:
    b = tensor("b", np.array([2, 1], np.int32))
    a = tensor("a", np.array([1.0, 3.5], np.float32), binary_data=False)
    result = infer(client, "sum_and_difference", b, a, difference=False, sum=True)
    assert [output["name"] for output in result.get_response()["outputs"]] == ["difference", "sum"]
    assert result.as_numpy("sum").tolist() == [5.0, 5.5]
    assert result.as_numpy("difference").tolist() == [-1.0, 2.5]


def test_nan_and_infinity_survive_in_binary_data(client: InferenceServerClient) -> None:
    back = infer(client, "logarithm", tensor("x", np.array([-1, 0], np.float32)), y=True).as_numpy("y")
    assert np.isnan(back[0])
    assert np.isneginf(back[1])
