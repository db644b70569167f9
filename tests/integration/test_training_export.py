import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")

import keras
import tensorflow as tf

from service.drift import features
from service.serving_config import saved_model_digest
from tests.integration.packages import package, scored_package, serving_config
from training.export import saved_model, twin, version
from training.models import regression

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "models").glob("*/[1-9]*"))
EVERY_MODEL = {"README.md", "learning_curve.png", "metrics.json", "model.tflite", "reference.json", "serving.json"}
CLASSIFIER = EVERY_MODEL | {"confusion_matrix.png", "reliability.png"}
ASSETS = {
    "regression": EVERY_MODEL | {"fitted_line.png"},
    "clothing": CLASSIFIER | {"sample.png", "samples"},
    "activity": CLASSIFIER | {"samples"},
    "photos": CLASSIFIER | {"sample.jpg", "samples"},
}


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> version.Exported:
    return version.export(package(), tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The version of a classifier."""
    return version.export(scored_package(), tmp_path_factory.mktemp("models")).version_dir


def test_version_holds_model_twin_and_files(exported: version.Exported) -> None:
    version_dir = exported.version_dir
    assert version_dir.parts[-2:] == ("line", "1")
    assert visible(version_dir.parent) == ["1"]
    assets = version_dir / "assets.extra"
    assert visible(assets) == [
        "README.md",
        "curve.png",
        "metrics.json",
        "model.tflite",
        "reference.json",
        "serving.json",
    ]
    metrics = json.loads((assets / "metrics.json").read_text())
    saved_model_bytes = sum(path.stat().st_size for path in version_dir.glob("[!a]*") if path.is_file())
    saved_model_bytes += sum(path.stat().st_size for path in version_dir.glob("variables/*"))
    sizes = {"saved_model_bytes": saved_model_bytes, "twin_bytes": (assets / "model.tflite").stat().st_size}
    assert metrics == {"model": "line", "version": 1, "loss": 0.5, **sizes} == exported.metrics
    assert json.loads((assets / "reference.json").read_text()) == {"inputs": {}}
    card = (assets / "README.md").read_text()
    assert card.startswith("# line, version 1\n\nproved equal on 4,001 real inputs")


def test_signatures_are_those_of_the_saved_model(exported: version.Exported) -> None:
    signature = serving_config(exported.version_dir)["signatures"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert signature["inputs"] == {"x": {"name": "serving_default_x:0", "dtype": "DT_FLOAT", "shape": [-1]}}
    loaded = tf.saved_model.load(str(exported.version_dir)).signatures["serving_default"]
    assert loaded.structured_outputs.keys() == signature["outputs"].keys() == {"y"}
    assert signature["outputs"]["y"]["dtype"] == "DT_FLOAT"
    assert signature["outputs"]["y"]["shape"] == [-1]


def test_proof_states_what_it_was_made_from(exported: version.Exported) -> None:
    proof = serving_config(exported.version_dir)["twin"]
    content = (exported.version_dir / "assets.extra" / "model.tflite").read_bytes()
    assert proof["sha256"] == hashlib.sha256(content).hexdigest()
    assert proof["saved_model_sha256"] == saved_model_digest(exported.version_dir)
    assert proof["inputs_tried"] == 4001
    assert 0 <= proof["largest_difference"] <= proof["tolerance"] == 1e-5


def test_classifier_has_a_plain_and_a_scored_signature(scored: Path) -> None:
    config = serving_config(scored)
    assert config["outlier_score"] == {"signature": "scored", "output": "outlier_score", "threshold": 1.0}
    assert {name: sorted(each["outputs"]) for name, each in config["signatures"].items()} == {
        "scored": ["outlier_score", "probabilities"],
        "serving_default": ["probabilities"],
    }
    assert {each["method_name"] for each in config["signatures"].values()} == {"tensorflow/serving/predict"}
    assert config["signatures"]["scored"]["outputs"]["outlier_score"]["shape"] == [-1]
    loaded = tf.saved_model.load(str(scored)).signatures
    values = tf.constant(np.random.default_rng(2).normal(size=(5, 4)), tf.float32)
    plain, all_outputs = loaded["serving_default"](values=values), loaded["scored"](values=values)
    assert list(plain) == ["probabilities"]
    np.testing.assert_array_equal(plain["probabilities"], all_outputs["probabilities"])
    np.testing.assert_array_equal(all_outputs["outlier_score"], np.abs(values[:, 0]))


def test_variables_of_both_signatures_are_written_once(scored: Path) -> None:
    names = [name for name, _ in tf.train.list_variables(str(scored / "variables" / "variables"))]
    assert len([name for name in names if name.startswith("variables_of_graph")]) == 1


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


def test_nan_and_infinity_are_errors(tmp_path: Path) -> None:
    for broken in ({"metrics": {"loss": float("nan")}}, {"reference": {"edge": float("inf")}}):
        with pytest.raises(ValueError, match="not JSON compliant"):
            version.export(package(**broken), tmp_path, convert=no_conversion)
    assert visible(tmp_path / "line") == []


def test_existing_version_is_not_overwritten(exported: version.Exported) -> None:
    before = (exported.version_dir / "saved_model.pb").read_bytes()
    models = exported.version_dir.parents[1]
    second = version.export(package(), models).version_dir
    assert second == models / "line" / "2"
    assert (exported.version_dir / "saved_model.pb").read_bytes() == before
    assert json.loads((second / "assets.extra" / "metrics.json").read_text())["version"] == 2


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
    config = serving_config(exported.version_dir)
    assert "twin" not in config
    assert reason in config["no_twin"]
    assert str(tmp_path) not in config["no_twin"]
    assert not (exported.version_dir / "assets.extra" / "model.tflite").exists()
    assert exported.twin.startswith("none shipped (")
    assert "serving_default" in tf.saved_model.load(str(exported.version_dir)).signatures


def test_failed_export_leaves_nothing(tmp_path: Path) -> None:
    def no_pictures(folder: Path) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        version.export(package(pictures=no_pictures), tmp_path, convert=no_conversion)
    assert visible(tmp_path / "line") == []


KILLED_HALFWAY = """
import signal, sys
from pathlib import Path
from tests.integration.packages import package
from training.export import version

def convert(folder, *_):
    print("halfway", flush=True)
    signal.pause()

version.export(package(), Path(sys.argv[1]), convert=convert)
"""


def test_killed_export_leaves_only_a_dot_directory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_HALFWAY, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "halfway\n"
        os.kill(process.pid, signal.SIGKILL)
    (left,) = (tmp_path / "line").iterdir()
    assert left.name.startswith(".export-")
    assert (left / "saved_model.pb").exists(), "it was killed before there was anything to leave"
    assert version.export(package(), tmp_path).version_dir == tmp_path / "line" / "1"


@pytest.mark.parametrize("version_dir", SHIPPED, ids=lambda path: "/".join(path.parts[-2:]))
def test_shipped_version_is_complete_and_proved(version_dir: Path) -> None:
    assets = version_dir / "assets.extra"
    assert set(visible(assets)) == ASSETS[version_dir.parent.name]
    config = serving_config(version_dir)
    assert config["twin"]["sha256"] == hashlib.sha256((assets / "model.tflite").read_bytes()).hexdigest()
    assert config["twin"]["saved_model_sha256"] == saved_model_digest(version_dir)
    assert {name: each["outputs"].keys() for name, each in config["signatures"].items()} == {
        name: each.outputs.keys() for name, each in saved_model.read_signatures(version_dir).items()
    }
    metrics = json.loads((assets / "metrics.json").read_text())
    assert metrics["version"] == int(version_dir.name)
    assert metrics["twin_bytes"] == (assets / "model.tflite").stat().st_size


@pytest.mark.parametrize("version_dir", SHIPPED, ids=lambda path: "/".join(path.parts[-2:]))
def test_reference_has_the_features_of_the_service(version_dir: Path) -> None:
    config = serving_config(version_dir)
    reference = json.loads((version_dir / "assets.extra" / "reference.json").read_text())
    inputs = {
        name: np.zeros([2, *spec["shape"][1:]], np.float32)
        for name, spec in config["signatures"]["serving_default"]["inputs"].items()
    }
    assert reference["inputs"].keys() == features.features(inputs).keys()
    metrics = json.loads((version_dir / "assets.extra" / "metrics.json").read_text())
    assert reference["rows"] == metrics["training_examples"]
    assert reference.get("held_out_rows") == metrics.get("validation_examples")
    assert list(reference.get("labels", {})) == config.get("labels", [])
    binned = [*reference["inputs"].values(), *([reference["confidence"]] if "labels" in config else [])]
    for each in binned:
        assert (np.diff(each["edges"]) > 0).all()
        assert len(each["shares"]) == len(each["edges"]) + 1
        assert sum(each["shares"]) == pytest.approx(1, abs=1e-4)


def test_shipped_models_stay_below_40_mb() -> None:
    assert sum(path.stat().st_size for path in (ROOT / "models").rglob("*") if path.is_file()) < 40_000_000


@pytest.mark.parametrize("version_dir", SHIPPED, ids=lambda path: "/".join(path.parts[-2:]))
def test_shipped_files_name_no_path(version_dir: Path) -> None:
    for file in version_dir.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        for place in (str(ROOT), str(Path.home()), str(Path(keras.__file__).parent), "/.export-"):
            assert place.encode() not in content, f"{file} names {place}"
