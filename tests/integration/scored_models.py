"""A SavedModel that gives an outlier score beside its answer, and its twins, made with TensorFlow."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from service.engines.tensorflow.engine import SavedModelEngine
from service.serving_config import (
    ASSETS,
    TWIN_FILE,
    ImageSpec,
    OutlierScore,
    ServingConfig,
    Twin,
    saved_model_digest,
    write_serving_config,
)
from service.tensors.signature import DEFAULT_SIGNATURE

SIZE = 8
Precision = Literal["float32", "float16", "int8"]
LABELS = ("dark", "grey", "bright")
SCORE = OutlierScore(signature="scored", output="outlier_score", threshold=0.5)


def save_brightness(path: Path, precision: Precision) -> None:
    """How near a picture's mean is to those of the labels; its spread, from 0 to 1, is the outlier score. With a twin
    of this precision."""
    module = tf.Module()
    module.means = tf.Variable([0.0, 127.5, 255.0])

    def answer(pixels: Any) -> Any:
        mean = tf.reduce_mean(pixels, axis=[1, 2])
        return {"probabilities": tf.nn.softmax(-tf.abs(mean[:, None] - module.means) / 50.0)}

    def score(pixels: Any) -> Any:
        spread = tf.reduce_max(pixels, axis=[1, 2]) - tf.reduce_min(pixels, axis=[1, 2])
        return {**answer(pixels), "outlier_score": spread / 255.0}

    takes = [tf.TensorSpec([None, SIZE, SIZE], tf.float32, name="pixels")]
    functions = {DEFAULT_SIGNATURE: answer, "scored": score}
    signatures = {name: tf.function(function, input_signature=takes) for name, function in functions.items()}
    tf.saved_model.save(module, str(path), signatures=signatures)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(path), signature_keys=["scored"])
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        converter.representative_dataset = _pictures
    twin = converter.convert()
    (path / ASSETS).mkdir()
    (path / ASSETS / TWIN_FILE).write_bytes(twin)
    proof = Twin(
        sha256=hashlib.sha256(twin).hexdigest(),
        saved_model_sha256=saved_model_digest(path),
        inputs_tried=0,
        largest_difference=0.0,
        tolerance=0.0,
        precision=precision,
        **({} if precision == "float32" else {"accuracy": 1.0, "saved_model_accuracy": 1.0}),
    )
    config = ServingConfig(
        signatures=dict(SavedModelEngine(path).signatures),
        labels=LABELS,
        image=ImageSpec(height=SIZE, width=SIZE, mode="L"),
        twin=proof,
        outlier_score=SCORE,
    )
    write_serving_config(path, config)


def _pictures() -> Iterator[dict[str, Any]]:
    """What int8 takes its ranges from."""
    for level in range(0, 256, 16):
        picture = np.full((1, SIZE, SIZE), level, np.float32)
        picture[0, :, : SIZE // 2] = 255 - level
        yield {"pixels": picture}
