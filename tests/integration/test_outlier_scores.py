"""A SavedModel that gives an outlier score beside its answer, and its twins of each precision."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tensorflow as tf

from service.engines.loading import load_engine
from service.engines.tensorflow.engine import SavedModelEngine
from service.serving_config import (
    ASSETS,
    TWIN_FILE,
    OutlierScore,
    ServingConfig,
    Twin,
    saved_model_digest,
)
from service.settings import EngineChoice
from tests.integration.saved_models import save, spec

SIZE = 8
# Of each half of a picture. The mean tells the label, the spread is the score.
LEVELS = ((0, 0), (0, 51), (0, 255))


def save_brightness(path: Path) -> None:
    """How near a picture's mean is to dark, grey and bright; the scored signature gives its spread as well."""
    means = tf.Variable([0.0, 127.5, 255.0])

    def answer(pixels: Any) -> Any:
        mean = tf.reduce_mean(pixels, axis=[1, 2])
        return {"probabilities": tf.nn.softmax(-tf.abs(mean[:, None] - means) / 50.0)}

    def score(pixels: Any) -> Any:
        spread = tf.reduce_max(pixels, axis=[1, 2]) - tf.reduce_min(pixels, axis=[1, 2])
        return {**answer(pixels), "outlier_score": spread / 255.0}

    pixels = spec("pixels", shape=[None, SIZE, SIZE])
    save(path, answer, pixels, holds=means, scored=(score, [pixels]))


def add_twin(path: Path, precision: Literal["float32", "float16", "int8"]) -> ServingConfig:
    converter = tf.lite.TFLiteConverter.from_saved_model(str(path), signature_keys=["scored"])
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        converter.representative_dataset = pictures
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
    score = OutlierScore(signature="scored", output="outlier_score", threshold=0.5)
    return ServingConfig(signatures=dict(SavedModelEngine(path).signatures), twin=proof, outlier_score=score)


def pictures() -> Iterator[dict[str, Any]]:
    """What int8 takes its ranges from."""
    for level in range(0, 256, 16):
        yield {"pixels": picture(level, 255 - level)[None]}


def picture(*halves: float) -> Any:
    return np.tile(np.repeat(halves, SIZE // 2), (SIZE, 1)).astype(np.float32)


@pytest.mark.parametrize(
    ("choice", "precision"),
    [("tensorflow", "float32"), ("litert", "float32"), ("auto", "float16"), ("auto", "int8")],
)
def test_each_row_gets_its_answer_and_its_score(choice: EngineChoice, precision: Any, tmp_path: Path) -> None:
    save_brightness(tmp_path / "1")
    engine = load_engine(tmp_path / "1", add_twin(tmp_path / "1", precision), choice)
    assert engine.name == ("tensorflow" if choice == "tensorflow" else "litert")
    assert set(engine.signatures) == {"serving_default", "scored"}
    pixels = np.stack([picture(*levels) for levels in LEVELS])
    scored = engine.run("scored", {"pixels": pixels})
    (probabilities,) = engine.run("serving_default", {"pixels": pixels}).values()
    assert probabilities.tolist() == scored["probabilities"].tolist()
    assert probabilities.argmax(axis=1).tolist() == [0, 0, 1]
    np.testing.assert_allclose(scored["outlier_score"], [0, 0.2, 1], atol=0.01)
