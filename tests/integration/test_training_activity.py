from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")

from ai_edge_litert.interpreter import Interpreter

from tests.integration.training_run import ROOT, read, train
from training.data import basic_motions
from training.models import activity

SHIPPED = ROOT / "models" / "activity" / "1"

if basic_motions.local_folder() is None:
    pytest.skip("aeon, which carries BasicMotions, is not installed (requirements/train.txt)", allow_module_level=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The version that `python -m training activity` exports after few epochs, and what it prints."""
    return train("activity", tmp_path_factory.mktemp("models"), "--epochs", "4")


def test_twin_has_the_accuracy_in_the_metrics(run: tuple[Path, str]) -> None:
    data = basic_motions.load()
    runner = Interpreter(str(run[0] / "assets.extra" / "model.tflite")).get_signature_runner("scored")
    predicted = runner(motion=data.test_motions)["probabilities"].argmax(axis=1)
    accuracy = read(run[0], "metrics.json")["accuracy"]
    assert (predicted == data.test_labels).mean() == pytest.approx(accuracy)
    assert accuracy >= 0.9


def test_best_candidate_is_chosen(run: tuple[Path, str]) -> None:
    for version_dir in (run[0], SHIPPED):
        found = read(version_dir, "metrics.json")
        best = max(found["cross_validation"], key=lambda each: (each["accuracy"], -each["loss"]))
        assert [each for each in found["cross_validation"] if each["chosen"]] == [best]
        assert len(found["cross_validation"]) == len(activity.CANDIDATES)
        assert found["validation_accuracy"] == best["accuracy"]


def test_rules_are_those_of_the_shipped_version(run: tuple[Path, str]) -> None:
    found, shipped = read(run[0], "metrics.json"), read(SHIPPED, "metrics.json")
    for name in ("rules_accuracy", "tuned_rules_accuracy", "tuned_rules_validation_accuracy", "tuned_rules"):
        assert found[name] == shipped[name]
    assert shipped["rules_accuracy"] < 0.6 < shipped["tuned_rules_accuracy"] <= shipped["accuracy"]


def test_outliers_are_flagged(run: tuple[Path, str]) -> None:
    flagged = read(run[0], "metrics.json")["outliers_flagged"]
    assert flagged["test"] <= 0.1
    assert min(flagged["noise"], flagged["a constant"], flagged["in other units (× 9.81)"]) > 0.5
    assert flagged["steps in random order"] > 0.2


def test_serving_json(run: tuple[Path, str]) -> None:
    config = read(run[0], "serving.json")
    assert config["labels"] == ["Standing", "Running", "Walking", "Badminton"]
    assert np.shape(config["example"]["instances"]) == (1, 100, 6)
    assert config["signatures"]["serving_default"]["inputs"]["motion"]["shape"] == [-1, 100, 6]
    assert config["twin"]["inputs_tried"] == 1_000


def test_reference_has_features_of_each_channel(run: tuple[Path, str]) -> None:
    found = read(run[0], "reference.json")
    assert len(found["inputs"]) == 6 * 5 + 5
    assert len(found["inputs"]["motion[0] mean"]["shares"]) == 10
    assert (found["rows"], found["held_out_rows"]) == (40, 40)


def test_printed_summary(run: tuple[Path, str]) -> None:
    version_dir, printed = run
    assert printed.count("accuracy") > len(activity.CANDIDATES)
    assert "Chosen: Candidate(" in printed
    assert "Epoch 4/4" in printed
    assert f"Exported    {version_dir}" in printed
    assert "Twin        proved equal on 1,000 real inputs" in printed
    assert "Next        python -m service --models" in printed
