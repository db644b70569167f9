"""Metadata of the server, its models and the repository, as the Open Inference Protocol has them."""

from typing import Any

from service.api.v2.binary import datatype
from service.api.v2.decode import signature_name
from service.inference.version import LoadedVersion, State, VersionStatus
from service.lifecycle.registry import Registry
from service.runtime.build import NAME, VERSION
from service.tensors.signature import TensorSpec

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics")
# Of the versions, whichever engine runs them.
PLATFORM = "tensorflow_savedmodel"

# Triton's names for them.
_STATES = {
    State.START: "UNKNOWN",
    State.LOADING: "LOADING",
    State.AVAILABLE: "READY",
    State.UNLOADING: "UNLOADING",
    State.END: "UNAVAILABLE",
}


def server_metadata() -> dict[str, object]:
    return {"name": NAME, "version": VERSION, "extensions": EXTENSIONS}


def model_metadata(registry: Registry, loaded: LoadedVersion) -> dict[str, object]:
    """Inputs and outputs of a version. `versions`: those that are AVAILABLE."""
    signature = loaded.signature(signature_name(loaded))
    versions = registry.statuses().get(loaded.model, {})
    return {
        "name": loaded.model,
        "versions": [str(number) for number in sorted(versions) if versions[number].state is State.AVAILABLE],
        "platform": PLATFORM,
        "inputs": [_tensor(name, spec) for name, spec in signature.inputs.items()],
        "outputs": [_tensor(name, spec) for name, spec in signature.outputs.items()],
    }


def model_config(loaded: LoadedVersion) -> dict[str, object]:
    """Triton's ModelConfig, as far as it applies. Where rows may be batched, `dims` leave out the first size."""
    name = signature_name(loaded)
    signature = loaded.signature(name)
    is_batched = name in loaded.independence.signatures
    config: dict[str, Any] = {
        "name": loaded.model,
        "platform": PLATFORM,
        "backend": loaded.engine.name,
        "version_policy": {"all": {}},
        "max_batch_size": loaded.limits.max_batch_size if is_batched else 0,
        "input": [
            _config(name, spec, is_batched) | {"optional": False, "is_shape_tensor": False}
            for name, spec in signature.inputs.items()
        ],
        "output": [
            _config(name, spec, is_batched) | {"is_shape_tensor": False} for name, spec in signature.outputs.items()
        ],
    }
    if is_batched:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": round(loaded.limits.timeout_seconds * 1e6)}
    return config


def repository_index(registry: Registry, ready_only: bool) -> list[dict[str, str]]:
    return [
        {"name": model, "version": str(number), "state": _STATES[status.state], "reason": _reason(status)}
        for model, versions in sorted(registry.statuses().items())
        for number, status in sorted(versions.items())
        if status.state is State.AVAILABLE or not ready_only
    ]


def _reason(status: VersionStatus) -> str:
    return status.error or ("unloaded" if status.state is State.END else "")


def _tensor(name: str, spec: TensorSpec) -> dict[str, object]:
    """The protocol has no tensors of any rank: they are described with one free size. Nor quantized ones: what their
    integers stand for is said beside it."""
    described: dict[str, object] = {
        "name": name,
        "datatype": datatype(spec),
        "shape": [-1] if spec.shape is None else spec.shape,
    }
    if (quantization := spec.quantization) is not None:
        described["quantization"] = {"scale": quantization.scale, "zero_point": quantization.zero_point}
    return described


def _config(name: str, spec: TensorSpec, is_batched: bool) -> dict[str, object]:
    shape = [-1] if spec.shape is None else spec.shape
    kind = "STRING" if spec.dtype == "DT_STRING" else datatype(spec)
    return {"name": name, "data_type": f"TYPE_{kind}", "dims": shape[1:] if is_batched else shape}
