import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")

from ai_edge_litert.interpreter import Interpreter

from tests.integration.training_run import EVERY_MODEL, ROOT, files, read
from training.errors import FitError
from training.models import regression


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The version that `python -m training regression` exports, and what it prints."""
    output = tmp_path_factory.mktemp("models")
    command = [sys.executable, "-m", "training", "regression", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return output / "regression/1", done.stdout


def test_twin_predicts_31_for_10(run: tuple[Path, str]) -> None:
    interpreter = Interpreter(str(run[0] / "assets.extra/model.tflite"))
    answer = interpreter.get_signature_runner("serving_default")(x=np.array([10.0, -1.0], np.float32))
    assert answer["y"] == pytest.approx([31, -2], abs=0.01)


def test_same_seed_gives_the_shipped_version(run: tuple[Path, str]) -> None:
    found, shipped = (read(version, "metrics.json") for version in (run[0], ROOT / "models/regression/1"))
    for name in ("weight", "bias", "prediction_for_10", "parameters"):
        assert found[name] == pytest.approx(shipped[name], abs=1e-5)


def test_summary_says_what_was_exported_and_what_to_do_next(run: tuple[Path, str]) -> None:
    version_dir, printed = run
    assert files(version_dir) == EVERY_MODEL | {"fitted_line.png"}
    assert f"Exported    {version_dir}" in printed
    assert "Answer      31.0000 for x = 10" in printed
    assert "Twin        proved equal on 4,001 real inputs" in printed
    assert f"Next        python -m service --models {version_dir.parents[1]}\n" in printed
    body = shlex.quote('{"instances": [10.0]}')
    assert printed.endswith(f"curl -d {body} http://127.0.0.1:8501/v1/models/regression:predict\n")
    assert len(printed.splitlines()) < 20


def test_reference_has_a_bin_for_each_point(run: tuple[Path, str]) -> None:
    found = read(run[0], "reference.json")
    assert found["rows"] == 6
    assert found["inputs"]["x"]["edges"] == pytest.approx([-1.005, -0.5, 0.5, 1.5, 2.5, 3.5, 4.005])
    assert found["inputs"]["x"]["shares"] == pytest.approx([0, *[1 / 6] * 6, 0], abs=1e-5)


def test_diverging_fit_exports_nothing(tmp_path: Path) -> None:
    with pytest.raises(FitError, match="try a smaller --learning-rate"):
        regression.run(regression.Config(learning_rate=9.0, output=tmp_path))
    assert not list(tmp_path.rglob("saved_model.pb"))
