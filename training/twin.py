"""The twin: a SavedModel converted for LiteRT, and the proof that both answer alike."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from service.serving_config import ASSETS, TWIN_FILE, Twin, saved_model_digest
from service.signature import DEFAULT_SIGNATURE

Arrays = dict[str, np.ndarray[Any, Any]]

TOLERANCE = 1e-5
# Alone, as a small batch, and as one larger than the batcher's: kernels differ by size.
BATCH_SIZES = (1, 32, 1000)
LEAST_INPUTS = 1000


class TwinError(Exception):
    """The conversion does not answer as its SavedModel does; the message says by how much."""


def convert(saved_model: Path) -> bytes:
    """float32 throughout: a smaller twin would be a different model."""
    content: bytes = tf.lite.TFLiteConverter.from_saved_model(str(saved_model)).convert()
    return content


def prove(version_dir: Path, inputs: Arrays, *, classifies: bool) -> Twin:
    """Runs the SavedModel, as it lies on disk, and the twin, on the runtime that serves it, on the same inputs.

    `inputs`: real ones by name, at least 1,000. TwinError where any output value differs by more than
    TOLERANCE or, with `classifies`, another class comes first.
    """
    count = len(next(iter(inputs.values())))
    if count < LEAST_INPUTS:
        raise ValueError(f"{count} inputs prove nothing, expected at least {LEAST_INPUTS}")
    path = version_dir / ASSETS / TWIN_FILE
    original = tf.saved_model.load(str(version_dir)).signatures[DEFAULT_SIGNATURE]
    runner = Interpreter(str(path)).get_signature_runner(DEFAULT_SIGNATURE)
    largest = 0.0
    for size in BATCH_SIZES:
        for start in range(0, count, size):
            batch = {name: values[start : start + size] for name, values in inputs.items()}
            expected = {name: tensor.numpy() for name, tensor in original(**batch).items()}
            answered = runner(**batch)
            largest = max(largest, _difference(expected, answered, classifies))
    return Twin(
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        saved_model_sha256=saved_model_digest(version_dir),
        inputs_tried=count,
        largest_difference=largest,
        tolerance=TOLERANCE,
    )


def _difference(expected: Arrays, answered: Arrays, classifies: bool) -> float:
    largest = 0.0
    if expected.keys() != answered.keys():
        raise TwinError(f"it gives {sorted(answered)}, the SavedModel {sorted(expected)}")
    for name, values in expected.items():
        if values.shape != answered[name].shape:
            raise TwinError(f"{name} has shape {answered[name].shape}, the SavedModel's {values.shape}")
        difference = float(np.abs(values - answered[name]).max())
        if not difference <= TOLERANCE:  # so that NaN fails too
            raise TwinError(f"{name} differs by {difference:.3g}, allowed is {TOLERANCE:g}")
        if classifies and (values.argmax(axis=-1) != answered[name].argmax(axis=-1)).any():
            raise TwinError(f"another class comes first in {name}")
        largest = max(largest, difference)
    return largest
