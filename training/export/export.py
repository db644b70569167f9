"""Writes a version: the SavedModel, its twin with its proof, and in assets.extra what is known about them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from service.serving_config import (
    ASSETS,
    TWIN_FILE,
    ImageSpec,
    OutlierScore,
    RowProof,
    Sample,
    ServingConfig,
    Twin,
    write_serving_config,
)
from service.tensors.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from training.evaluation.reference import REFERENCE_FILE
from training.export import independence, twin
from training.export.publish import publish, staging

CARD_FILE = "README.md"
METRICS_FILE = "metrics.json"
SCORED_SIGNATURE = "scored"


@dataclass(frozen=True, kw_only=True)
class Graph:
    """What is computed: `answer` takes a float32 tensor [batch, ...] of `input_shape` and gives outputs by name,
    reading `variables`. With an `outlier_output`, serving_default gives the others and the signature "scored" all.
    `labels_output`: the one with a probability for each class.
    """

    input_name: str
    input_shape: tuple[int | None, ...]
    answer: Callable[[Any], dict[str, Any]]
    variables: list[Any]
    labels_output: str | None = None
    outlier_output: str | None = None

    @property
    def whole_signature(self) -> str:
        return SCORED_SIGNATURE if self.outlier_output else DEFAULT_SIGNATURE


def graph_of(model: Any, input_name: str, output_name: str) -> Graph:
    """Of a keras.Model with one input and one output."""
    return Graph(
        input_name=input_name,
        input_shape=tuple(model.inputs[0].shape),
        answer=lambda values: {output_name: model(values, training=False)},
        variables=[weight.value for weight in model.weights],
    )


@dataclass(frozen=True, kw_only=True)
class Package:
    """What a model's module knows of a version; the rest is found out here.

    `metrics` becomes metrics.json, with the version and the sizes in bytes; `reference` becomes reference.json.
    `card` makes the model card of these metrics and what came of the twin. `pictures` writes the PNGs into the folder
    that it is given, `samples` what to try the version with.
    """

    name: str
    graph: Graph
    twin: twin.Plan
    metrics: dict[str, Any]
    reference: dict[str, Any]
    card: Callable[[dict[str, Any], str], str]
    pictures: Callable[[Path], None]
    example: dict[str, Any]
    labels: tuple[str, ...] = ()
    image: ImageSpec | None = None
    samples: Callable[[Path], tuple[Sample, ...]] = lambda _assets: ()


@dataclass(frozen=True)
class Exported:
    version_dir: Path
    twin: str
    rows: str
    metrics: dict[str, Any]

    def say(self, request: str, **results: str) -> None:
        """What came out, and what to do next: `request` is what to post, and where."""
        print(f"\n{'Exported':12}{self.version_dir}")
        for name, result in {**results, "Twin": self.twin, "Rows": self.rows}.items():
            print(f"{name:12}{result}")
        print(f"{'Next':12}python -m service --models {self.version_dir.parents[1]}")
        print(f"{'':12}and post {request}")


def export(package: Package, output: Path, *, convert: Callable[..., bytes] = twin.convert) -> Exported:
    """Writes `output`/`package.name`/<next version>."""
    outlier_score = None
    if package.graph.outlier_output:
        output_name = package.graph.outlier_output
        outlier_score = OutlierScore(signature=SCORED_SIGNATURE, output=output_name, threshold=1.0)
    with staging(output / package.name) as folder:
        write_saved_model(package.graph, folder)
        assets = folder / ASSETS
        assets.mkdir()
        proof, no_twin = make_twin(package, folder, convert)
        signatures = read_signatures(folder)
        rows, depend = prove_rows(package, folder, signatures, has_twin=proof is not None)
        write_serving_config(
            folder,
            ServingConfig(
                signatures=signatures,
                labels=package.labels,
                image=package.image,
                example=package.example,
                samples=package.samples(assets),
                twin=proof,
                no_twin=no_twin,
                outlier_score=outlier_score,
                independent_rows=rows,
            ),
        )
        write_json(assets / REFERENCE_FILE, package.reference, indent=None)
        package.pictures(assets)
        outcome = describe(proof, no_twin)
        metrics = {"model": package.name, "version": 0, **package.metrics, **sizes(folder)}

        def finish(version: int) -> None:
            metrics["version"] = version
            write_json(assets / METRICS_FILE, metrics, indent=2)
            (assets / CARD_FILE).write_text(package.card(metrics, outcome), "utf-8")

        return Exported(publish(folder, finish), outcome, describe_rows(rows, depend), metrics)


def write_saved_model(graph: Graph, folder: Path) -> None:
    """Signatures whose input and outputs have the names that requests use; the batch's size is free.

    keras.export.ExportArchive does the same, but writes every variable twice.
    """
    shape = tf.TensorSpec(graph.input_shape, tf.float32, name=graph.input_name)
    whole = tf.function(graph.answer, input_signature=[shape])
    signatures = {graph.whole_signature: whole}
    if graph.outlier_output:
        # It calls the other, so that the file holds the network's graph once.
        signatures[DEFAULT_SIGNATURE] = tf.function(
            lambda values: {name: tensor for name, tensor in whole(values).items() if name != graph.outlier_output},
            input_signature=[shape],
        )
    module = tf.Module()
    module.variables_of_graph = graph.variables  # what is saved hangs on the module
    tf.saved_model.save(module, str(folder), signatures=signatures)


def make_twin(package: Package, folder: Path, convert: Callable[..., bytes]) -> tuple[Twin | None, str | None]:
    """The twin's proof, or why there is no twin: a model that cannot have one is still worth serving."""
    path = folder / ASSETS / TWIN_FILE
    graph, plan = package.graph, package.twin
    try:
        path.write_bytes(convert(folder, graph.whole_signature, plan.precision, plan.representative))
        outputs = graph.labels_output, graph.outlier_output
        proof = twin.prove(folder, graph.input_name, graph.whole_signature, plan, *outputs)
    except Exception as error:  # converter and runtime raise many kinds, each a reason to ship none
        path.unlink(missing_ok=True)
        reason = " ".join(str(error).replace(str(folder), "the SavedModel").split())
        return None, f"{type(error).__name__}: {reason[:500]}"
    return proof, None


def prove_rows(
    package: Package, folder: Path, signatures: dict[str, Signature], *, has_twin: bool
) -> tuple[RowProof | None, str | None]:
    """The proof that rows are independent, or why there is none: such a version is served, and never batched."""
    inputs = {package.graph.input_name: package.twin.inputs}
    try:
        return independence.prove(folder, signatures, package.graph.whole_signature, inputs, has_twin=has_twin), None
    except independence.RowsDepend as error:
        return None, str(error)


def describe_rows(proof: RowProof | None, depend: str | None) -> str:
    if proof is None:
        return f"never batched ({depend})"
    return (
        f"independent: {proof.rows_tried} of them alone, together and in another order differ by "
        f"{proof.largest_difference:.2g} (allowed {proof.tolerance:g})"
    )


def describe(proof: Twin | None, no_twin: str | None) -> str:
    if proof is None:
        return f"none shipped ({no_twin})"
    if proof.precision == "float32":
        return (
            f"proved equal on {proof.inputs_tried:,} real inputs, "
            f"largest difference {proof.largest_difference:.2g} (allowed {proof.tolerance:g})"
        )
    return (
        f"in {proof.precision}; of {proof.inputs_tried:,} labelled inputs it calls {proof.accuracy:.4f} right, "
        f"the SavedModel {proof.saved_model_accuracy:.4f} (allowed is {proof.tolerance:g} less)"
    )


def sizes(folder: Path) -> dict[str, int | None]:
    """In bytes: of the SavedModel without assets.extra, and of the twin."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    path = folder / ASSETS / TWIN_FILE
    return {
        "saved_model_bytes": sum(file.stat().st_size for file in files if folder / ASSETS not in file.parents),
        "twin_bytes": path.stat().st_size if path.exists() else None,
    }


def write_json(path: Path, content: dict[str, Any], *, indent: int | None) -> None:
    """ValueError where a number is none: NaN and infinity are no JSON."""
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


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
