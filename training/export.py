"""Writes a version: the SavedModel, its twin with its proof, and in assets.extra what is known about them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from service.serving_config import ASSETS, TWIN_FILE, ImageSpec, ServingConfig, Twin, write_serving_config
from service.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from training import twin
from training.publish import publish, staging

CARD_FILE = "README.md"
METRICS_FILE = "metrics.json"


@dataclass(frozen=True, kw_only=True)
class Package:
    """What a model's module knows of a version; the rest is found out here.

    `proof_inputs`: real inputs for the twin's proof, first axis the batch. `metrics` becomes metrics.json,
    with the version. `card` makes the model card of the version and what came of the twin. `pictures` writes
    the PNGs into the folder that it is given.
    """

    name: str
    model: Any
    input_name: str
    output_name: str
    proof_inputs: np.ndarray[Any, Any]
    metrics: dict[str, Any]
    card: Callable[[int, str], str]
    pictures: Callable[[Path], None]
    example: dict[str, Any]
    labels: tuple[str, ...] = ()
    image: ImageSpec | None = None


@dataclass(frozen=True)
class Exported:
    version_dir: Path
    twin: str


def export(package: Package, output: Path, *, convert: Callable[[Path], bytes] = twin.convert) -> Exported:
    """Writes `output`/`package.name`/<next version>."""
    with staging(output / package.name) as folder:
        write_saved_model(package, folder)
        assets = folder / ASSETS
        assets.mkdir()
        proof, no_twin = make_twin(package, folder, convert)
        write_serving_config(
            folder,
            ServingConfig(
                signatures=read_signatures(folder),
                labels=package.labels,
                image=package.image,
                example=package.example,
                twin=proof,
                no_twin=no_twin,
            ),
        )
        package.pictures(assets)
        outcome = describe(proof, no_twin)

        def finish(version: int) -> None:
            metrics = {"model": package.name, "version": version, **package.metrics}
            text = json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False)
            (assets / METRICS_FILE).write_text(text + "\n", "utf-8")
            (assets / CARD_FILE).write_text(package.card(version, outcome), "utf-8")

        return Exported(publish(folder, finish), outcome)


def write_saved_model(package: Package, folder: Path) -> None:
    """One signature whose input and output have the names that requests use; the batch's size is free.

    keras.export.ExportArchive does the same, but writes every variable twice.
    """
    serve = tf.function(
        lambda values: {package.output_name: package.model(values, training=False)},
        input_signature=[tf.TensorSpec(package.model.inputs[0].shape, tf.float32, name=package.input_name)],
    )
    module = tf.Module()
    module.weights = [weight.value for weight in package.model.weights]  # what is saved hangs on the module
    tf.saved_model.save(module, str(folder), signatures={DEFAULT_SIGNATURE: serve})


def make_twin(package: Package, folder: Path, convert: Callable[[Path], bytes]) -> tuple[Twin | None, str | None]:
    """The twin's proof, or why there is no twin: a model that cannot have one is still worth serving."""
    path = folder / ASSETS / TWIN_FILE
    try:
        path.write_bytes(convert(folder))
        inputs = {package.input_name: package.proof_inputs}
        proof = twin.prove(folder, inputs, classifies=bool(package.labels))
    except Exception as error:  # converter and runtime raise many kinds, each a reason to ship none
        path.unlink(missing_ok=True)
        reason = " ".join(str(error).replace(str(folder), "the SavedModel").split())
        return None, f"{type(error).__name__}: {reason[:500]}"
    return proof, None


def describe(proof: Twin | None, no_twin: str | None) -> str:
    if proof is None:
        return f"none shipped ({no_twin})"
    return (
        f"proved equal on {proof.inputs_tried:,} real inputs, "
        f"largest difference {proof.largest_difference:.2g} (allowed {proof.tolerance:g})"
    )


def read_signatures(saved_model: Path) -> dict[str, Signature]:
    """As saved_model.pb has them, graph names and all; without the entry points that initialise."""
    content = saved_model_pb2.SavedModel()
    content.ParseFromString((saved_model / "saved_model.pb").read_bytes())
    return {
        name: Signature(
            method_name=signature.method_name,
            inputs={key: _tensor_spec(info) for key, info in sorted(signature.inputs.items())},
            outputs={key: _tensor_spec(info) for key, info in sorted(signature.outputs.items())},
        )
        for name, signature in content.meta_graphs[0].signature_def.items()
        if not name.startswith("__")
    }


def _tensor_spec(info: Any) -> TensorSpec:
    shape = None if info.tensor_shape.unknown_rank else tuple(dim.size for dim in info.tensor_shape.dim)
    return TensorSpec(info.name, types_pb2.DataType.Name(info.dtype), shape)
