"""Untrained models, packed to be exported: what they answer does not matter here."""

from typing import Any

import numpy as np
import tensorflow as tf

from training.export import saved_model, twin, version
from training.models import regression


def package(**changed: Any) -> version.Package:
    settings: dict[str, Any] = {
        "name": "line",
        "graph": saved_model.keras_graph(regression.build(), "x", "y"),
        "twin": twin.Plan(inputs=regression.PROOF_INPUTS),
        "metrics": {"loss": 0.5},
        "reference": {"inputs": {}},
        "card": lambda metrics, outcome: f"# line, version {metrics['version']}\n\n{outcome}\n",
        "pictures": lambda folder: (folder / "curve.png").write_bytes(b"png"),
        "example": {"instances": [10.0]},
    }
    return version.Package(**settings | changed)


def scored_graph() -> saved_model.Graph:
    """Three classes of [batch, 4], and a score that is the first of the four values."""
    weights = tf.Variable(np.random.default_rng(0).normal(size=(4, 3)), dtype=tf.float32)
    return saved_model.Graph(
        input_name="values",
        input_shape=(None, 4),
        function=lambda values: {
            "probabilities": tf.nn.softmax(tf.matmul(values, weights)),
            "outlier_score": tf.abs(values[:, 0]),
        },
        variables=[weights],
        labels_output="probabilities",
        outlier_output="outlier_score",
    )


def scored_package(**changed: Any) -> version.Package:
    inputs = np.random.default_rng(1).normal(size=(1_000, 4)).astype(np.float32)
    settings = {"graph": scored_graph(), "twin": twin.Plan(inputs=inputs), "labels": ("a", "b", "c")}
    return package(**settings | changed)
