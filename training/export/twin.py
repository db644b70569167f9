"""The twin: a SavedModel converted for LiteRT, and the proof that its outputs are equal, or as accurate."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from service.serving_config import ASSETS, TWIN_FILE, Twin, saved_model_digest
from service.tensors.signature import DEFAULT_SIGNATURE
from training.data import Array, Integers

Arrays = dict[str, Array]
Precision = Literal["float32", "float16", "int8"]

TOLERANCE = 1e-5
# One row, a small batch, and one larger than the service's: kernels differ by size.
BATCH_SIZES = (1, 32, 1000)
BATCH_BYTES = 64 * 2**20  # of inputs at once: of large pictures the largest batch is smaller
MIN_INPUTS = 1000
MIN_LABELLED = 100


class TwinError(Exception):
    """The conversion's outputs are not the SavedModel's; the message says by how much they differ."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to convert the twin, and the inputs that prove it.

    `inputs`: real ones, first axis the batch, converted to float32 slice by slice. For float32 at least 1,000; for
    float16 and int8 at least 100 with their `labels`, none of the test split. `accuracy_loss`: how much accuracy the
    twin may lose, and the share of the inputs of which only one may say that they are outliers. `representative`:
    training inputs by which int8 sets its ranges.
    """

    inputs: Array
    precision: Precision = "float32"
    labels: Integers | None = None
    accuracy_loss: float = 0.005
    representative: Array | None = None


def convert(
    saved_model: Path,
    signature: str = DEFAULT_SIGNATURE,
    precision: Precision = "float32",
    representative: Array | None = None,
) -> bytes:
    """Converts one signature. Inputs and outputs stay float32.

    float16 halves the weights and computes in float32; int8 quarters them and computes in integers, for which it needs
    `representative` values of the signature's only input.
    """
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), signature_keys=[signature])
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        if representative is None:
            raise ValueError("int8 needs representative inputs")
        (name,) = tf.saved_model.load(str(saved_model)).signatures[signature].structured_input_signature[1]

        def rows() -> Iterator[tuple[str, Arrays]]:
            for row in representative:
                yield signature, {name: row[np.newaxis].astype(np.float32)}

        converter.representative_dataset = rows
    content: bytes = converter.convert()
    return content


def prove(
    version_dir: Path,
    input_name: str,
    signature: str,
    plan: Plan,
    labels_output: str | None = None,
    outlier_output: str | None = None,
) -> Twin:
    """Runs the SavedModel on disk and the twin, on the runtime that serves it, on the same inputs.

    TwinError if they differ too much. `labels_output`: the output with a probability for each class; `outlier_output`:
    the one that is above 1 for outliers.
    """
    count = len(plan.inputs)
    if plan.precision == "float32":
        if count < MIN_INPUTS:
            raise ValueError(f"{count} inputs prove nothing, expected at least {MIN_INPUTS}")
        outcome = _prove_equal(version_dir, input_name, signature, plan, labels_output)
    else:
        if plan.labels is None or labels_output is None or count < MIN_LABELLED:
            raise ValueError(f"a twin in {plan.precision} is proved by at least {MIN_LABELLED} labelled inputs")
        outcome = _prove_accurate(version_dir, input_name, signature, plan, labels_output, outlier_output)
    return Twin(
        sha256=hashlib.sha256((version_dir / ASSETS / TWIN_FILE).read_bytes()).hexdigest(),
        saved_model_sha256=saved_model_digest(version_dir),
        inputs_tried=count,
        precision=plan.precision,
        **outcome,
    )


def _prove_equal(
    version_dir: Path, input_name: str, signature: str, plan: Plan, labels_output: str | None
) -> dict[str, Any]:
    largest = 0.0
    for _, expected, twin_outputs in _both(version_dir, input_name, signature, plan.inputs, BATCH_SIZES):
        largest = max(largest, _difference(expected, twin_outputs, labels_output))
    return {"largest_difference": largest, "tolerance": TOLERANCE}


def _prove_accurate(
    version_dir: Path, input_name: str, signature: str, plan: Plan, labels_output: str, outlier_output: str | None
) -> dict[str, Any]:
    assert plan.labels is not None  # noqa: S101
    right = {"accuracy": 0, "saved_model_accuracy": 0}
    otherwise, largest = 0, 0.0
    for start, expected, twin_outputs in _both(version_dir, input_name, signature, plan.inputs, (32,)):
        _check_form(expected, twin_outputs)
        labels = plan.labels[start : start + len(expected[labels_output])]
        for key, outputs in (("accuracy", twin_outputs), ("saved_model_accuracy", expected)):
            right[key] += int((outputs[labels_output].argmax(axis=1) == labels).sum())
        if outlier_output is not None:
            otherwise += int(((expected[outlier_output] > 1) != (twin_outputs[outlier_output] > 1)).sum())
        largest = max(largest, float(np.abs(expected[labels_output] - twin_outputs[labels_output]).max()))
    count, allowed = len(plan.labels), plan.accuracy_loss
    shares = {key: places / count for key, places in right.items()}
    if not (shares["saved_model_accuracy"] - shares["accuracy"] <= allowed and np.isfinite(largest)):
        raise TwinError(
            f"in {plan.precision} it calls {shares['accuracy']:.4f} right, the SavedModel "
            f"{shares['saved_model_accuracy']:.4f}; allowed is {allowed:g} less"
        )
    if otherwise / count > allowed:
        raise TwinError(
            f"in {plan.precision} it takes {otherwise / count:.4f} of the inputs for outliers that are none to the "
            f"SavedModel, or the reverse; allowed is {allowed:g}"
        )
    return {"largest_difference": largest, "tolerance": allowed, **shares}


def _both(
    version_dir: Path, input_name: str, signature: str, inputs: Array, sizes: tuple[int, ...]
) -> Iterator[tuple[int, Arrays, Arrays]]:
    """For each batch of each size: where it starts, the SavedModel's outputs and the twin's.

    TwinError if the SavedModel's default signature gives other outputs than this one.
    """
    signatures = tf.saved_model.load(str(version_dir)).signatures
    interpreter = Interpreter(str(version_dir / ASSETS / TWIN_FILE))
    runner = interpreter.get_signature_runner(signature)
    max_size = max(1, BATCH_BYTES // (4 * max(1, int(np.prod(inputs.shape[1:])))))
    for size in sorted({min(size, max_size) for size in sizes}):
        for start in range(0, len(inputs), size):
            batch = {input_name: inputs[start : start + size].astype(np.float32)}
            expected = {name: tensor.numpy() for name, tensor in signatures[signature](**batch).items()}
            if signature != DEFAULT_SIGNATURE:
                for name, tensor in signatures[DEFAULT_SIGNATURE](**batch).items():
                    _check_same(name, tensor.numpy(), expected[name])
            yield start, expected, runner(**batch)


def _check_same(name: str, default: Array, expected: Array) -> None:
    if not np.abs(default - expected).max() <= TOLERANCE:
        raise TwinError(f"the SavedModel's signatures do not give the same {name}")


def _check_form(expected: Arrays, twin_outputs: Arrays) -> None:
    if expected.keys() != twin_outputs.keys():
        raise TwinError(f"it gives {sorted(twin_outputs)}, the SavedModel {sorted(expected)}")
    for name, values in expected.items():
        if values.shape != twin_outputs[name].shape:
            raise TwinError(f"{name} has shape {twin_outputs[name].shape}, the SavedModel's {values.shape}")


def _difference(expected: Arrays, twin_outputs: Arrays, labels_output: str | None) -> float:
    """The largest difference of any output value: absolute up to 1, relative above, where float32 is coarser."""
    _check_form(expected, twin_outputs)
    largest = 0.0
    for name, values in expected.items():
        difference = float((np.abs(values - twin_outputs[name]) / np.maximum(np.abs(values), 1)).max())
        if not difference <= TOLERANCE:  # so that NaN fails too
            raise TwinError(f"{name} differs by {difference:.3g}, allowed is {TOLERANCE:g}")
        if name == labels_output and (values.argmax(axis=-1) != twin_outputs[name].argmax(axis=-1)).any():
            raise TwinError(f"another class comes first in {name}")
        largest = max(largest, difference)
    return largest
