"""Status and metadata of models, as TensorFlow Serving's REST API has them."""

from service.errors import NotFound
from service.inference.version import LoadedVersion, State, VersionStatus
from service.lifecycle.registry import Registry
from service.tensors.signature import TensorSpec


def model_version_status(registry: Registry, model: str, version: int | None) -> dict[str, object]:
    """GetModelStatusResponse: all versions of a model, newest first, or one.

    Raises:
        NotFound: there is none.
    """
    known = registry.statuses().get(model, {})
    numbers = [number for number in sorted(known, reverse=True) if version in (None, number)]
    if not numbers:
        wanted = "any versions" if version is None else f"version {version}"
        raise NotFound(f"Could not find {wanted} of model {model}; GET /v1/models lists the models")
    return {"model_version_status": [_status(number, known[number]) for number in numbers]}


def metadata(loaded: LoadedVersion) -> dict[str, object]:
    """GetModelMetadataResponse."""
    signatures = {
        name: {
            "inputs": {key: _tensor_info(spec) for key, spec in signature.inputs.items()},
            "outputs": {key: _tensor_info(spec) for key, spec in signature.outputs.items()},
            "method_name": signature.method_name,
            "defaults": {},
        }
        for name, signature in loaded.engine.signatures.items()
    }
    return {
        "model_spec": {"name": loaded.model, "signature_name": "", "version": str(loaded.version)},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def _status(number: int, status: VersionStatus) -> dict[str, object]:
    # An AVAILABLE version is in order, even if the folder that is to replace it failed.
    has_failed = status.error and status.state is not State.AVAILABLE
    return {
        "version": str(number),
        "state": status.state,
        "status": {"error_code": "FAILED_PRECONDITION" if has_failed else "OK", "error_message": status.error},
    }


def _tensor_info(spec: TensorSpec) -> dict[str, object]:
    dims = [{"size": str(size), "name": ""} for size in spec.shape or ()]
    return {
        "dtype": spec.dtype,
        "tensor_shape": {"dim": dims, "unknown_rank": spec.shape is None},
        "name": spec.name,
    }
