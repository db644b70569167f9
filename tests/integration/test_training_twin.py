import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")

import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from tests.integration.packages import package, scored_graph, scored_package, serving_config
from training.export import saved_model, twin, version


def test_classifiers_twin_holds_only_the_scored_signature(tmp_path: Path) -> None:
    version_dir = version.export(scored_package(), tmp_path).version_dir
    interpreter = Interpreter(str(version_dir / "assets.extra" / "model.tflite"))
    signatures = interpreter.get_signature_list()
    assert list(signatures) == ["scored"]
    assert sorted(signatures["scored"]["outputs"]) == ["outlier_score", "probabilities"]


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_lower_precision_is_proved_by_accuracy(precision: Any, tmp_path: Path) -> None:
    inputs = np.random.default_rng(1).normal(size=(200, 4)).astype(np.float32)
    labels = scored_graph().function(tf.constant(inputs))["probabilities"].numpy().argmax(axis=1)
    labels[:20] = (labels[:20] + 1) % 3
    plan = twin.Plan(inputs=inputs, labels=labels, precision=precision, representative=inputs[:50], accuracy_loss=0.05)
    exported = version.export(scored_package(twin=plan), tmp_path)
    proof = serving_config(exported.version_dir)["twin"]
    assert proof["precision"] == precision
    assert proof["inputs_tried"] == 200
    assert proof["tolerance"] == 0.05
    assert proof["saved_model_accuracy"] == 0.9
    assert proof["accuracy"] >= 0.85
    assert f"in {precision}; of 200 labelled inputs it calls {proof['accuracy']:.4f} right" in exported.twin


def test_twin_that_loses_too_much_accuracy_is_not_shipped(tmp_path: Path) -> None:
    inputs = np.random.default_rng(1).normal(size=(200, 4)).astype(np.float32)
    labels = scored_graph().function(tf.constant(inputs))["probabilities"].numpy().argmax(axis=1)

    def of_other_weights(folder: Path, signature: str, *_: Any) -> bytes:
        graph = scored_graph()
        graph.variables[0].assign(-graph.variables[0])
        saved_model.write(graph, folder / "other")
        return twin.convert(folder / "other", signature)

    plan = twin.Plan(inputs=inputs, labels=labels, precision="float16")
    exported = version.export(scored_package(twin=plan), tmp_path, convert=of_other_weights)
    assert "TwinError: in float16 it calls 0." in exported.twin
    assert "the SavedModel 1.0000; allowed is 0.005 less" in exported.twin


def test_twin_with_other_outliers_is_not_shipped(tmp_path: Path) -> None:
    inputs = np.random.default_rng(1).normal(size=(200, 4)).astype(np.float32)
    labels = scored_graph().function(tf.constant(inputs))["probabilities"].numpy().argmax(axis=1)

    def of_another_score(folder: Path, signature: str, *_: Any) -> bytes:
        graph = scored_graph()
        changed = dataclasses.replace(
            graph, function=lambda values: graph.function(values) | {"outlier_score": 2 * tf.abs(values[:, 0])}
        )
        saved_model.write(changed, folder / "other")
        return twin.convert(folder / "other", signature)

    plan = twin.Plan(inputs=inputs, labels=labels, precision="int8", representative=inputs)
    exported = version.export(scored_package(twin=plan), tmp_path, convert=of_another_score)
    assert "TwinError: in int8 it takes 0." in exported.twin


@pytest.mark.parametrize("broken", [{"labels": None}, {"inputs": np.zeros((99, 4)), "labels": np.zeros(99, np.int64)}])
def test_lower_precision_needs_100_labelled_inputs(broken: dict[str, Any], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"inputs": np.zeros((100, 4)), "labels": np.zeros(100, np.int64)} | broken
    exported = version.export(scored_package(twin=twin.Plan(precision="float16", **settings)), tmp_path)
    assert "a twin in float16 is proved by at least 100 labelled inputs" in exported.twin


def test_int8_needs_representative_inputs(tmp_path: Path) -> None:
    plan = twin.Plan(inputs=np.zeros((100, 4)), labels=np.zeros(100, np.int64), precision="int8")
    assert "int8 needs representative inputs" in version.export(scored_package(twin=plan), tmp_path).twin


def test_twin_takes_batches_of_any_size(tmp_path: Path) -> None:
    version_dir = version.export(package(), tmp_path).version_dir
    interpreter = Interpreter(str(version_dir / "assets.extra" / "model.tflite"))
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["x"], "outputs": ["y"]}}
    runner = interpreter.get_signature_runner("serving_default")
    assert [len(runner(x=np.zeros(size, np.float32))["y"]) for size in (1, 7, 2)] == [1, 7, 2]


def test_another_first_class_is_an_error() -> None:
    close = {"p": np.array([[0.500001, 0.499999]])}
    with pytest.raises(twin.TwinError, match="another class comes first in p"):
        twin._difference(close, {"p": close["p"][:, ::-1]}, labels_output="p")
    assert twin._difference(close, {"p": close["p"][:, ::-1]}, labels_output=None) == pytest.approx(2e-6)


def test_difference_is_relative_above_1() -> None:
    expected = {"score": np.array([0.5, 200.0])}
    assert twin._difference(expected, {"score": np.array([0.5, 200.001])}, None) == pytest.approx(5e-6)
    with pytest.raises(twin.TwinError, match="score differs by"):
        twin._difference(expected, {"score": np.array([0.50002, 200.0])}, None)


def test_signatures_must_agree() -> None:
    with pytest.raises(twin.TwinError, match="the SavedModel's signatures do not give the same p"):
        twin._check_same("p", np.array([0.5]), np.array([0.6]))


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        ({"p": np.array([[np.nan, 1.0]])}, "p differs by nan"),
        ({"p": np.array([0.0, 1.0])}, "p has shape"),
        ({"q": np.array([[0.0, 1.0]])}, "gives"),
    ],
    ids=["not a number", "another shape", "another name"],
)
def test_other_outputs_are_an_error(outputs: dict[str, Any], says: str) -> None:
    with pytest.raises(twin.TwinError, match=says):
        twin._difference({"p": np.array([[0.0, 1.0]])}, outputs, labels_output="p")


def test_float32_needs_1000_inputs(tmp_path: Path) -> None:
    exported = version.export(package(twin=twin.Plan(inputs=np.zeros(999, np.float32))), tmp_path)
    assert "999 inputs prove nothing" in exported.twin
