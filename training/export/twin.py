"""The twin: a SavedModel converted for LiteRT, and the proof that its outputs are equal, or as accurate."""

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.lite.tools import flatbuffer_utils

from service.engines.litert import LiteRTEngine
from service.engines.tensorflow.engine import SavedModelEngine
from service.serving_config import ASSETS, TWIN_FILE, Precision, Twin, saved_model_digest
from service.tensors.signature import DEFAULT_SIGNATURE, Signature
from training.data import Array, Integers
from training.export.saved_model import read_signatures

Arrays = Mapping[str, Array]
Run = Callable[[str, Arrays], dict[str, Array]]

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
    signatures: Sequence[str] = (DEFAULT_SIGNATURE,),
    precision: Precision = "float32",
    representative: Mapping[str, Arrays] | None = None,
) -> bytes:
    """Converts the signatures. Inputs and outputs keep their types.

    float16 halves the weights and computes in float32; dynamic quarters them and computes in float32 what does not fit
    into integers; int8 quarters them and computes in integers, for which it needs `representative` rows of each
    signature's inputs.
    """
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), signature_keys=list(signatures))
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        if not representative:
            raise ValueError("int8 needs representative inputs")

        def rows() -> Iterator[tuple[str, dict[str, Array]]]:
            for name, inputs in representative.items():
                for row in range(len(next(iter(inputs.values())))):
                    yield name, {key: array[row : row + 1] for key, array in inputs.items()}

        converter.representative_dataset = rows
    return _with_all_signatures(converter.convert(), saved_model, signatures)


def _with_all_signatures(content: bytes, saved_model: Path, names: Sequence[str]) -> bytes:
    """With those that are another's function by a second name, as Keras exports `serve` and `serving_default`: the
    converter keeps one of them."""
    model = flatbuffer_utils.convert_bytearray_to_object(content)
    has = {each.signatureKey.decode(): each for each in model.signatureDefs or ()}
    missing = [name for name in names if name not in has]
    if not missing:
        return content
    specs = read_signatures(saved_model)
    for name in missing:
        same = [key for key in has if _tensors(specs[key]) == _tensors(specs[name])]
        if not same:
            raise TwinError(f"the converter leaves out the signature {name!r}")
        alias = copy.copy(has[same[0]])
        alias.signatureKey = name.encode()
        model.signatureDefs.append(alias)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _tensors(signature: Signature) -> tuple[set[tuple[Any, ...]], ...]:
    return tuple(
        {(name, spec.dtype, spec.shape) for name, spec in specs.items()}
        for specs in (signature.inputs, signature.outputs)
    )


def prove(
    version_dir: Path,
    input_name: str,
    signature: str,
    plan: Plan,
    labels_output: str | None = None,
    outlier_output: str | None = None,
) -> Twin:
    """Runs the SavedModel on disk and the twin, by the engines that serve them, on the same inputs.

    TwinError if they differ too much, or if the default signature gives other outputs than this one. `labels_output`:
    the output with a probability for each class; `outlier_output`: the one that is above 1 for outliers.
    """
    count = len(plan.inputs)
    inputs = {input_name: plan.inputs}
    if plan.precision == "float32":
        if count < MIN_INPUTS:
            raise ValueError(f"{count} inputs prove nothing, expected at least {MIN_INPUTS}")
        runs = _runs(version_dir, signature)
        largest = largest_difference(*runs, signature, inputs, labels_output=labels_output)
        outcome = {"largest_difference": largest, "tolerance": TOLERANCE}
    else:
        if plan.labels is None or labels_output is None or count < MIN_LABELLED:
            raise ValueError(f"a twin in {plan.precision} is proved by at least {MIN_LABELLED} labelled inputs")
        runs = _runs(version_dir, signature)
        outputs = labels_output, outlier_output
        outcome = accuracies(*runs, signature, inputs, plan.labels, *outputs, plan.precision, plan.accuracy_loss)
    return describe(version_dir, count, plan.precision, outcome)


def describe(version_dir: Path, inputs_tried: int, precision: Precision, outcome: dict[str, float]) -> Twin:
    """The proof as serving.json has it. `outcome`: what was measured."""
    return Twin(
        sha256=hashlib.sha256((version_dir / ASSETS / TWIN_FILE).read_bytes()).hexdigest(),
        saved_model_sha256=saved_model_digest(version_dir),
        inputs_tried=inputs_tried,
        precision=precision,
        **outcome,
    )


def _runs(version_dir: Path, signature: str) -> tuple[Run, Run]:
    """Of the SavedModel, which checks its default signature by the way, and of the twin."""
    engine = SavedModelEngine(version_dir)
    twin = LiteRTEngine(version_dir / ASSETS / TWIN_FILE, {signature: read_signatures(version_dir)[signature]})

    def run_saved_model(name: str, inputs: Arrays) -> dict[str, Array]:
        outputs = engine.run(name, inputs)
        if name != DEFAULT_SIGNATURE:
            for key, values in engine.run(DEFAULT_SIGNATURE, inputs).items():
                _check_same(key, values, outputs[key])
        return outputs

    def run_twin(name: str, inputs: Arrays) -> dict[str, Array]:
        return twin.run(name, {key: array.astype(np.float32) for key, array in inputs.items()})

    return run_saved_model, run_twin


def largest_difference(
    saved_model: Run,
    twin: Run,
    signature: str,
    inputs: Arrays,
    *,
    labels_output: str | None = None,
    sizes: Sequence[int] = BATCH_SIZES,
    tolerance: float = TOLERANCE,
) -> float:
    """Of any output value, over batches of these sizes: absolute up to 1, relative above, where float32 is coarser.
    Raises TwinError above the tolerance."""
    largest = 0.0
    for size in sorted({min(size, _max_size(inputs)) for size in sizes}):
        for _, batch in _batches(inputs, size):
            expected = saved_model(signature, batch)
            largest = max(largest, _difference(expected, twin(signature, batch), labels_output, tolerance))
    return largest


def accuracies(
    saved_model: Run,
    twin: Run,
    signature: str,
    inputs: Arrays,
    labels: Integers,
    labels_output: str,
    outlier_output: str | None,
    precision: Precision,
    allowed: float,
) -> dict[str, float]:
    """How many of the inputs each calls right, and the largest difference of a probability. Raises TwinError where the
    twin is worse by more than `allowed`."""
    right = {"accuracy": 0, "saved_model_accuracy": 0}
    otherwise, largest = 0, 0.0
    for start, batch in _batches(inputs, min(32, _max_size(inputs))):
        expected, twin_outputs = saved_model(signature, batch), twin(signature, batch)
        _check_form(expected, twin_outputs)
        truth = labels[start : start + len(expected[labels_output])]
        for key, outputs in (("accuracy", twin_outputs), ("saved_model_accuracy", expected)):
            right[key] += int((outputs[labels_output].argmax(axis=1) == truth).sum())
        if outlier_output is not None:
            otherwise += int(((expected[outlier_output] > 1) != (twin_outputs[outlier_output] > 1)).sum())
        largest = max(largest, float(np.abs(expected[labels_output] - twin_outputs[labels_output]).max()))
    count = len(labels)
    shares = {key: places / count for key, places in right.items()}
    if not (shares["saved_model_accuracy"] - shares["accuracy"] <= allowed and np.isfinite(largest)):
        raise TwinError(
            f"in {precision} it calls {shares['accuracy']:.4f} right, the SavedModel "
            f"{shares['saved_model_accuracy']:.4f}; allowed is {allowed:g} less"
        )
    if otherwise / count > allowed:
        raise TwinError(
            f"in {precision} it takes {otherwise / count:.4f} of the inputs for outliers that are none to the "
            f"SavedModel, or the reverse; allowed is {allowed:g}"
        )
    return {"largest_difference": largest, "tolerance": allowed, **shares}


def _max_size(inputs: Arrays) -> int:
    """How many rows of these inputs may be run at once."""
    values = sum(int(np.prod(array.shape[1:])) for array in inputs.values())
    return max(1, BATCH_BYTES // (4 * max(1, values)))


def _batches(inputs: Arrays, size: int) -> Iterator[tuple[int, dict[str, Array]]]:
    """Where each batch starts, and its rows."""
    for start in range(0, len(next(iter(inputs.values()))), size):
        yield start, {name: array[start : start + size] for name, array in inputs.items()}


def _check_same(name: str, default: Array, expected: Array) -> None:
    if not np.abs(default - expected).max() <= TOLERANCE:
        raise TwinError(f"the SavedModel's signatures do not give the same {name}")


def _check_form(expected: Arrays, twin_outputs: Arrays) -> None:
    if expected.keys() != twin_outputs.keys():
        raise TwinError(f"it gives {sorted(twin_outputs)}, the SavedModel {sorted(expected)}")
    for name, values in expected.items():
        if values.shape != twin_outputs[name].shape:
            raise TwinError(f"{name} has shape {twin_outputs[name].shape}, the SavedModel's {values.shape}")


def _difference(
    expected: Arrays, twin_outputs: Arrays, labels_output: str | None, tolerance: float = TOLERANCE
) -> float:
    _check_form(expected, twin_outputs)
    largest = 0.0
    for name, values in expected.items():
        found = twin_outputs[name]
        if values.dtype.kind not in "fc":
            if not np.array_equal(values, found):
                raise TwinError(f"{name} is not the same")
            continue
        difference = float((np.abs(values - found) / np.maximum(np.abs(values), 1)).max(initial=0))
        if not difference <= tolerance:  # so that NaN fails too
            raise TwinError(f"{name} differs by {difference:.3g}, allowed is {tolerance:g}")
        if name == labels_output and (values.argmax(axis=-1) != found.argmax(axis=-1)).any():
            raise TwinError(f"another class comes first in {name}")
        largest = max(largest, difference)
    return largest
