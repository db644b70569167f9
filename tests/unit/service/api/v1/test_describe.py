from typing import Any

import pytest

from service.api.v1.describe import metadata, model_version_status
from service.errors import NotFound
from service.inference.version import State, VersionStatus
from service.lifecycle.registry import Registry
from service.tensors.signature import Signature, TensorSpec
from tests.unit.service.fakes import any_shape, loaded_version, make_available, signature

OF = signature({"x": any_shape("DT_FLOAT")})
OK = {"error_code": "OK", "error_message": ""}


@pytest.fixture
def registry() -> Registry:
    """It has three versions: 9 cannot be loaded, 123 is AVAILABLE, 124 is being loaded."""
    registry = Registry()
    make_available(registry, loaded_version(OF, version=123))
    registry.set_status("model", 124, VersionStatus(State.LOADING))
    registry.set_status("model", 9, VersionStatus(State.END, error="no saved_model.pb"))
    return registry


def test_status_of_all_versions_newest_first(registry: Registry) -> None:
    failed = {"error_code": "FAILED_PRECONDITION", "error_message": "no saved_model.pb"}
    assert model_version_status(registry, "model", None) == {
        "model_version_status": [
            {"version": "124", "state": "LOADING", "status": OK},
            {"version": "123", "state": "AVAILABLE", "status": OK},
            {"version": "9", "state": "END", "status": failed},
        ]
    }


def test_available_version_is_ok_though_its_replacement_failed(registry: Registry) -> None:
    registry.set_failure("model", 123, "broken")
    assert model_version_status(registry, "model", 123)["model_version_status"] == [
        {"version": "123", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": "broken"}}
    ]


def test_status_of_an_unknown_version_is_404(registry: Registry) -> None:
    with pytest.raises(NotFound, match=r"^Could not find any versions of model foo"):
        model_version_status(registry, "foo", None)
    with pytest.raises(NotFound, match=r"^Could not find version 9 of model foo"):
        model_version_status(registry, "foo", 9)


def test_metadata_is_written_like_the_golden_files_of_tensorflow_serving() -> None:
    """As protobuf's JSON with every field: int64 as strings, an unknown rank without dimensions, empty maps."""
    of = Signature(
        "tensorflow/serving/predict",
        {"x": TensorSpec("x:0", "DT_FLOAT", (-1, 1)), "t": TensorSpec("tf_example:0", "DT_STRING", None)},
        {"y": TensorSpec("y:0", "DT_FLOAT", ())},
    )

    def info(name: str, dtype: str, *sizes: str, unknown_rank: bool = False) -> dict[str, Any]:
        shape = {"dim": [{"size": size, "name": ""} for size in sizes], "unknown_rank": unknown_rank}
        return {"dtype": dtype, "tensor_shape": shape, "name": name}

    default = {
        "inputs": {"x": info("x:0", "DT_FLOAT", "-1", "1"), "t": info("tf_example:0", "DT_STRING", unknown_rank=True)},
        "outputs": {"y": info("y:0", "DT_FLOAT")},
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }
    assert metadata(loaded_version(of, version=123)) == {
        "model_spec": {"name": "model", "signature_name": "", "version": "123"},
        "metadata": {"signature_def": {"signature_def": {"serving_default": default}}},
    }
