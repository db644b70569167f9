import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.api.v2.describe import model_config, model_metadata, repository_index, server_metadata
from service.inference.batching import BatchLimits
from service.inference.version import State, VersionStatus
from service.lifecycle.registry import Registry
from service.tensors.signature import Quantization, TensorSpec
from tests.unit.service.api.models import LINEAR, VECTOR
from tests.unit.service.fakes import any_shape, independent, loaded_version, make_available, signature, tensor

QUANTIZED = Quantization(0.5, -128)
PICTURES = signature(
    # Of any shape
    {
        "pixels": tensor("DT_UINT8", -1, 28, 28),
        "names": TensorSpec("names:0", "DT_STRING", None, quantization=QUANTIZED),
    },
    {"found": tensor("DT_BOOL", -1)},
)


def test_server_metadata() -> None:
    project = tomllib.loads((Path(__file__).parents[5] / "pyproject.toml").read_text())["project"]
    assert server_metadata() == {
        "name": project["name"],
        "version": project["version"],
        "extensions": ("binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics"),
    }


def test_model_metadata() -> None:
    registry = Registry()
    registry.set_status("model", 8, VersionStatus(State.END))
    loaded = loaded_version(PICTURES, version=9)
    make_available(registry, loaded)
    make_available(registry, loaded_version(LINEAR, version=10))
    assert model_metadata(registry, loaded) == {
        "name": "model",
        "versions": ["9", "10"],
        "platform": "tensorflow_savedmodel",
        "inputs": [
            {"name": "pixels", "datatype": "UINT8", "shape": (-1, 28, 28)},
            {"name": "names", "datatype": "BYTES", "shape": [-1], "quantization": {"scale": 0.5, "zero_point": -128}},
        ],
        "outputs": [{"name": "found", "datatype": "BOOL", "shape": (-1,)}],
    }


def test_model_config() -> None:
    # Triton's perf_analyzer reads whether an input is optional or a shape.
    input_ = {"optional": False, "is_shape_tensor": False}
    assert model_config(loaded_version(PICTURES)) == {
        "name": "model",
        "platform": "tensorflow_savedmodel",
        "backend": "fake",
        "version_policy": {"all": {}},
        "max_batch_size": 0,
        "input": [
            {"name": "pixels", "data_type": "TYPE_UINT8", "dims": (-1, 28, 28), **input_},
            {"name": "names", "data_type": "TYPE_STRING", "dims": [-1], **input_},
        ],
        "output": [{"name": "found", "data_type": "TYPE_BOOL", "dims": (-1,), "is_shape_tensor": False}],
    }


def test_model_config_of_a_batched_model() -> None:
    loaded = loaded_version(signature({"x": tensor("DT_FLOAT", -1, 28, 28)}, {"y": tensor("DT_HALF", -1)}))
    limits = BatchLimits(8, timeout_seconds=0.0005)
    config: Any = model_config(replace(loaded, limits=limits, independence=independent(loaded.engine.signatures)))
    assert config["max_batch_size"] == 8
    assert config["dynamic_batching"] == {"max_queue_delay_microseconds": 500}
    assert [part["dims"] for part in config["input"] + config["output"]] == [(28, 28), ()]


@pytest.mark.parametrize(
    ("x", "y"), [(tensor("DT_FLOAT", 2, 3), VECTOR), (VECTOR, tensor("DT_FLOAT")), (any_shape("DT_FLOAT"), VECTOR)]
)
def test_model_config_of_a_model_without_rows(x: TensorSpec, y: TensorSpec) -> None:
    loaded = loaded_version(signature({"x": x}, {"y": y}))
    config: Any = model_config(replace(loaded, independence=independent(loaded.engine.signatures)))
    assert (config["max_batch_size"], list(config["input"][0]["dims"])) == (0, list(x.shape or [-1]))


def test_repository_index() -> None:
    registry = Registry()
    make_available(registry, loaded_version(LINEAR, version=2))
    registry.set_status("model", 1, VersionStatus(State.END, error="broken"))
    for number, state in enumerate([State.LOADING, State.END, State.START, State.UNLOADING], start=1):
        registry.set_status("another", number, VersionStatus(state))
    ready = {"name": "model", "version": "2", "state": "READY", "reason": ""}
    assert repository_index(registry, ready_only=False) == [
        {"name": "another", "version": "1", "state": "LOADING", "reason": ""},
        {"name": "another", "version": "2", "state": "UNAVAILABLE", "reason": "unloaded"},
        {"name": "another", "version": "3", "state": "UNKNOWN", "reason": ""},
        {"name": "another", "version": "4", "state": "UNLOADING", "reason": ""},
        {"name": "model", "version": "1", "state": "UNAVAILABLE", "reason": "broken"},
        ready,
    ]
    assert repository_index(registry, ready_only=True) == [ready]
