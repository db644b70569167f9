import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")

from ai_edge_litert.interpreter import Interpreter

from tests.integration.training_run import ROOT, read, train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The version that `python -m training regression` exports, and what it prints."""
    return train("regression", tmp_path_factory.mktemp("models"))


def test_saved_model_predicts_31_for_10(run: tuple[Path, str]) -> None:
    import tensorflow as tf

    serve = tf.saved_model.load(str(run[0])).signatures["serving_default"]
    assert serve(x=tf.constant([10.0]))["y"].numpy() == pytest.approx([31], abs=0.01)


def test_twin_predicts_31_for_10(run: tuple[Path, str]) -> None:
    interpreter = Interpreter(str(run[0] / "assets.extra" / "model.tflite"))
    answer = interpreter.get_signature_runner("serving_default")(x=np.array([10.0, -1.0], np.float32))
    assert answer["y"] == pytest.approx([31, -2], abs=0.01)


def test_metrics_are_those_of_the_line(run: tuple[Path, str]) -> None:
    found = read(run[0], "metrics.json")
    assert found["weight"] == pytest.approx(3, abs=0.01)
    assert found["bias"] == pytest.approx(1, abs=0.01)
    assert found["prediction_for_10"] == pytest.approx(31, abs=0.01)
    assert found["parameters"] == 2


def test_same_seed_gives_the_shipped_version(run: tuple[Path, str]) -> None:
    shipped = read(ROOT / "models" / "regression" / "1", "metrics.json")
    for name in ("weight", "bias", "prediction_for_10"):
        assert read(run[0], "metrics.json")[name] == pytest.approx(shipped[name], abs=1e-5)


def test_printed_summary(run: tuple[Path, str]) -> None:
    version_dir, printed = run
    assert "Epoch 200/200" in printed
    assert f"Exported    {version_dir}" in printed
    assert "Answer      31.0000 for x = 10" in printed
    assert "Twin        proved equal on 4,001 real inputs" in printed
    assert "Next        python -m service --models" in printed


def test_reference_has_a_bin_for_each_point(run: tuple[Path, str]) -> None:
    found = read(run[0], "reference.json")
    assert list(found) == ["rows", "inputs"]
    assert found["rows"] == 6
    assert found["inputs"]["x"]["edges"] == pytest.approx([-1.005, -0.5, 0.5, 1.5, 2.5, 3.5, 4.005])
    assert found["inputs"]["x"]["shares"] == pytest.approx([0, *[1 / 6] * 6, 0], abs=1e-5)


def test_diverging_fit_exports_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "training", "regression", "--learning-rate", "9", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "try a smaller --learning-rate" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("saved_model.pb"))
