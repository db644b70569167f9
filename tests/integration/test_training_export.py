"""A version as it is exported: SavedModel, twin, proof and files. And that the shipped ones are such."""

import dataclasses
import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")

import keras
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from service.drift import features
from service.serving_config import saved_model_digest
from tests.integration.packages import package, scored_graph, scored_package
from tests.integration.training_run import EVERY_MODEL, ROOT, files, read
from training.errors import RunError
from training.export import saved_model, twin, version
from training.export.saved_model import Graph
from training.export.twin import Plan
from training.models import regression

INPUTS = np.random.default_rng(1).normal(size=(200, 4)).astype(np.float32)  # of the scored package


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> version.Exported:
    """After a version 1."""
    models = tmp_path_factory.mktemp("models")
    (models / "line/1").mkdir(parents=True)
    return version.export(package(), models)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The version of a classifier."""
    return version.export(scored_package(), tmp_path_factory.mktemp("models")).version_dir


def twin_of(version_dir: Path) -> Any:
    return Interpreter(str(version_dir / "assets.extra/model.tflite"))


def test_version_holds_model_twin_and_files(exported: version.Exported) -> None:
    version_dir = exported.version_dir
    assert version_dir.parts[-2:] == ("line", "2")
    assert sorted(path.name for path in version_dir.parent.iterdir()) == ["1", "2"]
    assert files(version_dir) == EVERY_MODEL - {"learning_curve.png"} | {"curve.png"}
    parts = [version_dir / "saved_model.pb", version_dir / "fingerprint.pb", *version_dir.glob("variables/*")]
    saved_model_bytes = sum(path.stat().st_size for path in parts)
    sizes = {
        "saved_model_bytes": saved_model_bytes,
        "twin_bytes": (version_dir / "assets.extra/model.tflite").stat().st_size,
    }
    metrics = read(version_dir, "metrics.json")
    assert metrics == {"model": "line", "version": 2, "loss": 0.5, **sizes} == exported.metrics
    assert read(version_dir, "reference.json") == {"inputs": {}}
    card = (version_dir / "assets.extra/README.md").read_text()
    assert card.startswith("# line, version 2\n\nproved equal on 4,001 real inputs")


def test_proof_states_what_it_was_made_from(exported: version.Exported) -> None:
    proof = read(exported.version_dir, "serving.json")["twin"]
    content = (exported.version_dir / "assets.extra/model.tflite").read_bytes()
    assert proof["sha256"] == hashlib.sha256(content).hexdigest()
    assert proof["saved_model_sha256"] == saved_model_digest(exported.version_dir)
    assert proof["inputs_tried"] == 4001
    assert 0 <= proof["largest_difference"] <= proof["tolerance"] == 1e-5


def test_classifier_has_a_plain_and_a_scored_signature(scored: Path) -> None:
    config = read(scored, "serving.json")
    assert config["outlier_score"] == {"signature": "scored", "output": "outlier_score", "threshold": 1.0}
    assert {name: sorted(each["outputs"]) for name, each in config["signatures"].items()} == {
        "scored": ["outlier_score", "probabilities"],
        "serving_default": ["probabilities"],
    }
    assert {each["method_name"] for each in config["signatures"].values()} == {"tensorflow/serving/predict"}
    assert config["signatures"]["scored"]["outputs"]["outlier_score"]["shape"] == [-1]
    values = {"name": "serving_default_values:0", "dtype": "DT_FLOAT", "shape": [-1, 4]}
    assert config["signatures"]["serving_default"]["inputs"] == {"values": values}
    loaded = tf.saved_model.load(str(scored)).signatures
    plain, scores = (loaded[name](values=tf.constant(INPUTS)) for name in ("serving_default", "scored"))
    assert list(plain) == ["probabilities"]
    np.testing.assert_array_equal(plain["probabilities"], scores["probabilities"])
    np.testing.assert_array_equal(scores["outlier_score"], np.abs(INPUTS[:, 0]))


def test_variables_of_both_signatures_are_written_once(scored: Path) -> None:
    names = [name for name, _ in tf.train.list_variables(str(scored / "variables/variables"))]
    assert len([name for name in names if name.startswith("variables_of_graph")]) == 1


def test_nan_and_infinity_are_errors_and_nothing_is_left(tmp_path: Path) -> None:
    for broken in ({"metrics": {"loss": float("nan")}}, {"reference": {"edge": float("inf")}}):
        with pytest.raises(ValueError, match="not JSON compliant"):
            version.export(package(**broken), tmp_path, convert=no_conversion)
    assert list((tmp_path / "line").iterdir()) == []


# The twin


def test_full_disk_is_an_error_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "saved_model.pb; No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(RunError, match=r"cannot be written: saved_model\.pb; No space left on device"):
        version.export(package(), tmp_path)
    assert list((tmp_path / "line").iterdir()) == []


def another_model(folder: Path, *_: Any) -> bytes:
    """A well-formed twin with the right names and shapes, of other weights."""
    other = regression.build()
    other.set_weights([np.array([[5.0]]), np.array([0.001])])
    saved_model.write(saved_model.keras_graph(other, "x", "y"), folder / "other")
    return twin.convert(folder / "other")


def not_a_model(folder: Path, *_: Any) -> bytes:
    return b"TFL3 or so"


def no_conversion(folder: Path, *_: Any) -> bytes:
    raise RuntimeError(f"{folder} uses an op\nthat has no counterpart")


@pytest.mark.parametrize(
    ("convert", "reason"),
    [
        (another_model, "TwinError: y differs by"),
        (not_a_model, "Error: "),
        (no_conversion, "RuntimeError: the SavedModel uses an op that has no counterpart"),
    ],
)
def test_twin_without_proof_is_not_shipped(convert: Any, reason: str, tmp_path: Path) -> None:
    exported = version.export(package(), tmp_path, convert=convert)
    config = read(exported.version_dir, "serving.json")
    assert "twin" not in config
    assert reason in config["no_twin"]
    assert str(tmp_path) not in config["no_twin"]
    assert "model.tflite" not in files(exported.version_dir)
    assert exported.twin.startswith("none shipped (")


def test_twin_takes_batches_of_any_size(exported: version.Exported) -> None:
    interpreter = twin_of(exported.version_dir)
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["x"], "outputs": ["y"]}}
    runner = interpreter.get_signature_runner("serving_default")
    assert [len(runner(x=np.zeros(size, np.float32))["y"]) for size in (1, 7, 2)] == [1, 7, 2]


def test_classifiers_twin_holds_only_the_scored_signature(scored: Path) -> None:
    signatures = twin_of(scored).get_signature_list()
    assert list(signatures) == ["scored"]
    assert sorted(signatures["scored"]["outputs"]) == ["outlier_score", "probabilities"]


@pytest.fixture(scope="module")
def labels() -> Any:
    """As the SavedModel of a scored package has them."""
    return scored_graph().function(tf.constant(INPUTS))["probabilities"].numpy().argmax(axis=1)


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_lower_precision_is_proved_by_accuracy(precision: Any, labels: Any, tmp_path: Path) -> None:
    mostly = np.where(np.arange(200) < 20, (labels + 1) % 3, labels)
    plan = Plan(inputs=INPUTS, labels=mostly, precision=precision, representative=INPUTS[:50], accuracy_loss=0.05)
    exported = version.export(scored_package(twin=plan), tmp_path)
    proof = read(exported.version_dir, "serving.json")["twin"]
    assert (proof["precision"], proof["inputs_tried"], proof["tolerance"]) == (precision, 200, 0.05)
    assert proof["saved_model_accuracy"] == 0.9
    assert proof["accuracy"] >= 0.85
    assert f"in {precision}; of 200 labelled inputs it calls {proof['accuracy']:.4f} right" in exported.twin


def with_other_weights(graph: Graph) -> Graph:
    graph.variables[0].assign(-graph.variables[0])
    return graph


def with_another_score(graph: Graph) -> Graph:
    def function(values: Any) -> dict[str, Any]:
        return graph.function(values) | {"outlier_score": 2 * tf.abs(values[:, 0])}

    return dataclasses.replace(graph, function=function)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (with_other_weights, "it calls 0.* right, the SavedModel 1.0000; allowed is 0.005 less"),
        (with_another_score, "it takes 0.* of the inputs for outliers that are none to the SavedModel"),
    ],
)
def test_less_exact_twin_that_answers_otherwise_is_an_error(
    change: Any, says: str, labels: Any, scored: Path, tmp_path: Path
) -> None:
    shutil.copytree(scored, tmp_path / "1")
    saved_model.write(change(scored_graph()), tmp_path / "other")
    (tmp_path / "1/assets.extra/model.tflite").write_bytes(twin.convert(tmp_path / "other", ["scored"]))
    plan = Plan(inputs=INPUTS, labels=labels, precision="float16")
    with pytest.raises(twin.TwinError, match=f"in float16 {says}"):
        twin.prove(tmp_path / "1", "values", "scored", plan, "probabilities", "outlier_score")


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (Plan(inputs=np.zeros(999)), "999 inputs prove nothing"),
        (Plan(inputs=np.zeros(100), precision="float16"), "at least 100 labelled inputs"),
        (Plan(inputs=np.zeros(99), labels=np.zeros(99, int), precision="float16"), "at least 100 labelled inputs"),
    ],
    ids=["few", "no labels", "few labels"],
)
def test_too_few_inputs_are_an_error(plan: Plan, says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        twin.prove(tmp_path, "values", "scored", plan, "probabilities")


def test_int8_needs_representative_inputs(scored: Path) -> None:
    with pytest.raises(ValueError, match="int8 needs representative inputs"):
        twin.convert(scored, ["scored"], "int8")


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        ({"p": [0.499999, 0.500001]}, "another class comes first in p"),
        ({"p": [0.50001, 0.49998]}, "p differs by"),
        ({"p": [np.nan, 0.5]}, "p differs by nan"),
        ({"p": [0.0]}, "p has shape"),
        ({"q": [0.5, 0.5]}, "gives"),
    ],
    ids=["another class", "another value", "not a number", "another shape", "another name"],
)
def test_other_outputs_are_an_error(outputs: Any, says: str) -> None:
    expected = {"p": np.array([0.500001, 0.499999])}
    with pytest.raises(twin.TwinError, match=says):
        twin._difference(expected, {name: np.array(each) for name, each in outputs.items()}, "p")


def test_difference_is_relative_above_1() -> None:
    measured = twin._difference({"y": np.array([0.5, 200.0])}, {"y": np.array([0.5, 200.001])}, None)
    assert measured == pytest.approx(5e-6)


def test_signatures_must_agree() -> None:
    with pytest.raises(twin.TwinError, match="the SavedModel's signatures do not give the same p"):
        twin._check_same("p", np.array([0.5]), np.array([0.6]))


# What is shipped


@pytest.fixture(params=["activity/1", "clothing/1", "clothing/2", "photos/1", "regression/1"])
def version_dir(request: pytest.FixtureRequest) -> Path:
    return ROOT / "models" / str(request.param)


def test_shipped_version_is_complete_and_proved(version_dir: Path) -> None:
    assert files(version_dir) >= EVERY_MODEL
    config = read(version_dir, "serving.json")
    content = (version_dir / "assets.extra/model.tflite").read_bytes()
    assert config["twin"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert config["twin"]["saved_model_sha256"] == saved_model_digest(version_dir)
    metrics = read(version_dir, "metrics.json")
    assert (metrics["version"], metrics["twin_bytes"]) == (int(version_dir.name), len(content))


def test_reference_has_the_features_of_the_service(version_dir: Path) -> None:
    config, reference, metrics = (read(version_dir, f"{name}.json") for name in ("serving", "reference", "metrics"))
    inputs = {
        name: np.zeros([2, *spec["shape"][1:]], np.float32)
        for name, spec in config["signatures"]["serving_default"]["inputs"].items()
    }
    assert reference["inputs"].keys() == features.features(inputs).keys()
    assert reference["rows"] == metrics["training_examples"]
    assert reference.get("held_out_rows") == metrics.get("validation_examples")
    assert list(reference.get("labels", {})) == config.get("labels", [])
    for each in [*reference["inputs"].values(), *([reference["confidence"]] if "labels" in config else [])]:
        assert (np.diff(each["edges"]) > 0).all()
        assert len(each["shares"]) == len(each["edges"]) + 1
        assert sum(each["shares"]) == pytest.approx(1, abs=1e-4)


def test_shipped_models_are_small() -> None:
    sizes = {
        model: sum(path.stat().st_size for path in (ROOT / "models" / model).rglob("*")) for model in ("", "photos")
    }
    assert sizes[""] < 40_000_000
    assert sizes["photos"] < 20_000_000


def test_shipped_files_name_no_path(version_dir: Path) -> None:
    places = (str(ROOT), str(Path.home()), str(Path(keras.__file__).parent), "/.export-")
    for file in version_dir.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        assert [place for place in places if place.encode() in content] == [], file
