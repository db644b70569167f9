from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")

from ai_edge_litert.interpreter import Interpreter

from tests.integration.training_run import CLASSIFIER, ROOT, files, read, train
from training.data import basic_motions
from training.models import activity

if basic_motions.local_folder() is None:
    pytest.skip("aeon, which carries BasicMotions, is not installed (requirements/train.txt)", allow_module_level=True)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chosen between two candidates, after few epochs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(activity, "CANDIDATES", activity.CANDIDATES[::3])
        return train("activity", tmp_path_factory.mktemp("models"), "--epochs", "4")


def test_twin_has_the_accuracy_in_the_metrics(version: Path) -> None:
    data = basic_motions.load()
    runner = Interpreter(str(version / "assets.extra/model.tflite")).get_signature_runner("scored")
    predicted = runner(motion=data.test_motions)["probabilities"].argmax(axis=1)
    accuracy = read(version, "metrics.json")["accuracy"]
    assert (predicted == data.test_labels).mean() == pytest.approx(accuracy)
    assert accuracy >= 0.9


def test_best_candidate_is_chosen(version: Path) -> None:
    found = read(version, "metrics.json")
    best = max(found["cross_validation"], key=lambda each: (each["accuracy"], -each["loss"]))
    assert [each["chosen"] for each in found["cross_validation"]].count(True) == 1
    assert best["chosen"]
    assert found["validation_accuracy"] == best["accuracy"]


def test_rules_are_those_of_the_shipped_version(version: Path) -> None:
    found, shipped = (read(each, "metrics.json") for each in (version, ROOT / "models/activity/1"))
    for name in ("rules_accuracy", "tuned_rules_accuracy", "tuned_rules_validation_accuracy", "tuned_rules"):
        assert found[name] == shipped[name]


def test_outliers_are_flagged(version: Path) -> None:
    flagged = read(version, "metrics.json")["outliers_flagged"]
    assert flagged["test"] <= 0.1
    assert min(flagged["noise"], flagged["a constant"], flagged["in other units (× 9.81)"]) > 0.5
    assert flagged["steps in random order"] > 0.2


def test_files_of_the_version(version: Path) -> None:
    assert files(version) == CLASSIFIER
    config = read(version, "serving.json")
    assert config["labels"] == ["Standing", "Running", "Walking", "Badminton"]
    assert np.shape(config["example"]["instances"]) == (1, 100, 6)
    assert config["signatures"]["serving_default"]["inputs"]["motion"]["shape"] == [-1, 100, 6]
    assert config["twin"]["inputs_tried"] == 1_000
    reference = read(version, "reference.json")
    assert len(reference["inputs"]) == 6 * 5 + 5
    assert list(reference["labels"]) == config["labels"]
    assert (reference["rows"], reference["held_out_rows"]) == (40, 40)
