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
from ai_edge_litert.interpreter import Interpreter

from service.serving_config import saved_model_digest
from training import export, regression, twin

ROOT = Path(__file__).parents[2]
ASSETS = {
    "regression": {"fitted_line.png"},
    "clothing": {"confusion_matrix.png", "sample.png"},
    "activity": {"confusion_matrix.png"},
}
EVERY_MODEL = {"README.md", "learning_curve.png", "metrics.json", "model.tflite", "serving.json"}


def package(**changed: Any) -> export.Package:
    """An untrained regression: what it answers does not matter here."""
    settings: dict[str, Any] = {
        "name": "line",
        "model": regression.build(),
        "input_name": "x",
        "output_name": "y",
        "proof_inputs": regression.PROOF_INPUTS,
        "metrics": {"loss": 0.5},
        "card": lambda version, outcome: f"# line, version {version}\n\n{outcome}\n",
        "pictures": lambda folder: (folder / "curve.png").write_bytes(b"png"),
        "example": {"instances": [10.0]},
    }
    return export.Package(**settings | changed)


def serving_config(version_dir: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((version_dir / "assets.extra" / "serving.json").read_text())
    return loaded


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_version_holds_model_twin_and_what_is_known_of_them(tmp_path: Path) -> None:
    exported = export.export(package(), tmp_path)
    assert exported.version_dir == tmp_path / "line" / "1"
    assets = exported.version_dir / "assets.extra"
    assert visible(assets) == ["README.md", "curve.png", "metrics.json", "model.tflite", "serving.json"]
    assert json.loads((assets / "metrics.json").read_text()) == {"model": "line", "version": 1, "loss": 0.5}
    assert "# line, version 1" in (assets / "README.md").read_text()
    assert "proved equal on 4,001 real inputs" in (assets / "README.md").read_text()
    assert visible(tmp_path / "line") == ["1"]


def test_signatures_are_told_as_the_saved_model_has_them(tmp_path: Path) -> None:
    version_dir = export.export(package(), tmp_path).version_dir
    signature = serving_config(version_dir)["signatures"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert signature["inputs"] == {"x": {"name": "serving_default_x:0", "dtype": "DT_FLOAT", "shape": [-1]}}
    loaded = tf.saved_model.load(str(version_dir)).signatures["serving_default"]
    assert loaded.structured_outputs.keys() == signature["outputs"].keys() == {"y"}
    assert signature["outputs"]["y"]["dtype"] == "DT_FLOAT"
    assert signature["outputs"]["y"]["shape"] == [-1]


def test_the_twin_takes_batches_of_any_size(tmp_path: Path) -> None:
    version_dir = export.export(package(), tmp_path).version_dir
    interpreter = Interpreter(str(version_dir / "assets.extra" / "model.tflite"))
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["x"], "outputs": ["y"]}}
    runner = interpreter.get_signature_runner("serving_default")
    assert [len(runner(x=np.zeros(size, np.float32))["y"]) for size in (1, 7, 2)] == [1, 7, 2]


def test_the_proof_says_what_it_was_made_from(tmp_path: Path) -> None:
    version_dir = export.export(package(), tmp_path).version_dir
    proof = serving_config(version_dir)["twin"]
    content = (version_dir / "assets.extra" / "model.tflite").read_bytes()
    assert proof["sha256"] == hashlib.sha256(content).hexdigest()
    assert proof["saved_model_sha256"] == saved_model_digest(version_dir)
    assert proof["inputs_tried"] == 4001
    assert 0 <= proof["largest_difference"] <= proof["tolerance"] == 1e-5


def test_an_existing_version_is_never_overwritten(tmp_path: Path) -> None:
    first = export.export(package(), tmp_path).version_dir
    before = (first / "saved_model.pb").read_bytes()
    second = export.export(package(), tmp_path).version_dir
    assert second == tmp_path / "line" / "2"
    assert (first / "saved_model.pb").read_bytes() == before
    assert json.loads((second / "assets.extra" / "metrics.json").read_text())["version"] == 2


def another_model(folder: Path) -> bytes:
    """A well-formed twin with the right names and shapes, of other weights."""
    other = regression.build()
    other.set_weights([np.array([[5.0]]), np.array([0.001])])
    export.write_saved_model(package(model=other), folder / "other")
    return twin.convert(folder / "other")


def not_a_model(folder: Path) -> bytes:
    return b"TFL3 or so"


def no_conversion(folder: Path) -> bytes:
    raise RuntimeError(f"{folder} uses an op\nthat has no counterpart")


@pytest.mark.parametrize(
    ("convert", "reason"),
    [
        (another_model, "TwinError: y differs by"),
        (not_a_model, "Error: "),
        (no_conversion, "RuntimeError: the SavedModel uses an op that has no counterpart"),
    ],
)
def test_a_twin_without_proof_is_not_shipped_and_the_reason_is(convert: Any, reason: str, tmp_path: Path) -> None:
    exported = export.export(package(), tmp_path, convert=convert)
    config = serving_config(exported.version_dir)
    assert "twin" not in config
    assert reason in config["no_twin"]
    assert str(tmp_path) not in config["no_twin"]
    assert not (exported.version_dir / "assets.extra" / "model.tflite").exists()
    assert exported.twin.startswith("none shipped (")
    assert "serving_default" in tf.saved_model.load(str(exported.version_dir)).signatures


def test_a_twin_that_prefers_another_class_is_refused() -> None:
    close = {"p": np.array([[0.500001, 0.499999]])}
    with pytest.raises(twin.TwinError, match="another class comes first in p"):
        twin._difference(close, {"p": close["p"][:, ::-1]}, classifies=True)
    assert twin._difference(close, {"p": close["p"][:, ::-1]}, classifies=False) == pytest.approx(2e-6)


@pytest.mark.parametrize(
    ("answered", "says"),
    [
        ({"p": np.array([[np.nan, 1.0]])}, "p differs by nan"),
        ({"p": np.array([0.0, 1.0])}, "p has shape"),
        ({"q": np.array([[0.0, 1.0]])}, "gives"),
    ],
    ids=["not a number", "another shape", "another name"],
)
def test_a_twin_that_answers_something_else_is_refused(answered: dict[str, Any], says: str) -> None:
    with pytest.raises(twin.TwinError, match=says):
        twin._difference({"p": np.array([[0.0, 1.0]])}, answered, classifies=True)


def test_too_few_inputs_prove_nothing(tmp_path: Path) -> None:
    exported = export.export(package(proof_inputs=np.zeros(999, np.float32)), tmp_path)
    assert "999 inputs prove nothing" in exported.twin


def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def no_pictures(folder: Path) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        export.export(package(pictures=no_pictures), tmp_path)
    assert visible(tmp_path / "line") == []


KILLED_HALFWAY = """
import signal, sys
from pathlib import Path
from training import export, regression

def convert(folder):
    print("halfway", flush=True)
    signal.pause()

export.export(export.Package(
    name="line", model=regression.build(), input_name="x", output_name="y", proof_inputs=regression.PROOF_INPUTS,
    metrics={}, card=lambda version, outcome: "", pictures=lambda folder: None, example={}), Path(sys.argv[1]),
    convert=convert)
"""


def test_an_export_that_is_killed_leaves_nothing_that_a_server_would_load(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_HALFWAY, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "halfway\n"
        os.kill(process.pid, signal.SIGKILL)
    (left,) = (tmp_path / "line").iterdir()
    assert left.name.startswith(".export-")
    assert (left / "saved_model.pb").exists(), "it was killed before there was anything to leave"
    assert export.export(package(), tmp_path).version_dir == tmp_path / "line" / "1"


@pytest.mark.parametrize("name", ASSETS)
def test_the_shipped_version_is_whole_and_its_proof_is_about_it(name: str) -> None:
    version_dir = ROOT / "models" / name / "1"
    assets = version_dir / "assets.extra"
    assert set(visible(assets)) == EVERY_MODEL | ASSETS[name]
    proof = serving_config(version_dir)["twin"]
    assert proof["sha256"] == hashlib.sha256((assets / "model.tflite").read_bytes()).hexdigest()
    assert proof["saved_model_sha256"] == saved_model_digest(version_dir)
    signatures = export.read_signatures(version_dir)
    told = serving_config(version_dir)["signatures"]["serving_default"]
    assert told["outputs"].keys() == signatures["serving_default"].outputs.keys()
    assert json.loads((assets / "metrics.json").read_text())["version"] == 1


@pytest.mark.parametrize("name", ASSETS)
def test_no_shipped_file_tells_where_it_was_made(name: str) -> None:
    for file in (ROOT / "models" / name / "1").rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        for place in (str(ROOT), str(Path.home()), str(Path(keras.__file__).parent), "/.export-"):
            assert place.encode() not in content, f"{file} names {place}"
