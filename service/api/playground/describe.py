"""Descriptions of models for the page: enough to draw a panel for any of them."""

from collections.abc import Mapping
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import Any

import msgspec

from service.api.playground.version_files import VersionFiles
from service.api.v2.binary import datatype
from service.drift.card import number
from service.inference.version import LoadedVersion
from service.lifecycle.registry import Registry
from service.tensors.image import picture_spec
from service.tensors.signature import DEFAULT_SIGNATURE, Signature, TensorSpec

# No distance of fewer examples is one that one in a hundred exceeds.
MIN_OUTLIER_EXAMPLES = 100
# Share of foreign inputs above the threshold, averaged over their kinds.
MIN_FLAGGED = 0.5


def models(registry: Registry, folders: Mapping[tuple[str, int], Path]) -> dict[str, object]:
    """Every model with its versions, newest first, whatever their state. `default`: the version that answers who names
    none; null where none does. `folders`: of the versions, by model and number."""
    labels, defaults = registry.labels(), registry.defaults()
    return {
        "models": [
            {
                "name": model,
                "default": defaults.get(model),
                "labels": labels.get(model, {}),
                "versions": [
                    {
                        "version": number,
                        "state": status.state,
                        "error": status.error,
                        "engine": status.engine,
                        "load_seconds": status.load_seconds,
                        **_on_disk(folders.get((model, number))),
                    }
                    for number, status in sorted(versions.items(), reverse=True)
                ],
            }
            for model, versions in sorted(registry.statuses().items())
        ]
    }


def _on_disk(folder: Path | None) -> dict[str, object]:
    """What a version's own files say about it; null for what they do not. `bytes`: of all its files; `thumbnail`: the
    picture among them that stands for it."""
    found: dict[str, object] = dict.fromkeys(("accuracy", "test_examples", "loss", "bytes", "thumbnail"))
    if folder is not None:
        files = VersionFiles(folder)
        metrics = files.metrics() or {}
        found |= {"loss": number(metrics.get("loss")), **_accuracy(metrics)}
        with suppress(OSError):  # it may be removed meanwhile
            found |= {"bytes": files.total_size(), "thumbnail": files.thumbnail()}
    return found


def _accuracy(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """With the number of examples that it is a share of."""
    return {
        "accuracy": number(metrics.get("accuracy"), 0, 1),
        "test_examples": number(metrics.get("test_examples"), 1),
    }


def _outlier_doubt(metrics: Mapping[str, Any]) -> str | None:
    """Why a low outlier score says nothing: "few examples" gave the threshold, or it "flags few" of the foreign inputs
    that the version was tried on. None if nothing speaks against it."""
    size = number(metrics.get("validation_examples"))
    if size is not None and size < MIN_OUTLIER_EXAMPLES:
        return "few examples"
    flagged = metrics.get("outliers_flagged")
    if isinstance(flagged, dict):
        foreign = [share for name, value in flagged.items() if name != "test" and (share := number(value)) is not None]
        if foreign and sum(foreign) / len(foreign) < MIN_FLAGGED:
            return "flags few"
    return None


def version(loaded: LoadedVersion, files: VersionFiles) -> dict[str, object]:
    """A loaded version. `image`: how a picture becomes the input of the default signature; null where none can."""
    config = loaded.config
    default = loaded.engine.signatures.get(DEFAULT_SIGNATURE)
    metrics = files.metrics()
    image = picture_spec(default, config.image) if default else None
    return {
        "name": loaded.model,
        "version": loaded.version,
        "engine": loaded.engine.name,
        "row_seconds": loaded.pace.row_seconds if isfinite(loaded.pace.row_seconds) else None,
        "signatures": {name: _signature(signature) for name, signature in loaded.engine.signatures.items()},
        "labels": config.labels,
        "label_output": loaded.label_output(DEFAULT_SIGNATURE),
        "image": msgspec.to_builtins(image) if image else None,
        "has_outlier_score": config.outlier_score is not None,
        "outlier_doubt": _outlier_doubt(metrics or {}),
        "example": config.example,
        "samples": msgspec.to_builtins(config.samples),
        "twin": msgspec.to_builtins(config.twin) if config.twin else None,
        "samples_from": config.samples_from,
        "metrics": metrics,
        **_accuracy(metrics or {}),
        "files": [{"name": file.name, "bytes": file.size} for file in files.shown()],
        "bytes": files.total_size(),
    }


def _signature(signature: Signature) -> dict[str, Any]:
    return {
        "inputs": {name: _tensor(spec) for name, spec in signature.inputs.items()},
        "outputs": {name: _tensor(spec) for name, spec in signature.outputs.items()},
    }


def _tensor(spec: TensorSpec) -> dict[str, object]:
    """`shape`: null where any rank is taken; -1 stands for a free size."""
    return {"datatype": datatype(spec), "shape": spec.shape}
