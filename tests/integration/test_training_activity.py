from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")

import tensorflow as tf
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
    return train("activity", tmp_path_factory.mktemp("models"), "--epochs", "3")


@pytest.mark.parametrize("which", ["new", "shipped"])
def test_the_twin_has_the_accuracy_that_the_metrics_state(which: str, run: tuple[Path, str]) -> None:
    version_dir = run[0] if which == "new" else SHIPPED
    data = basic_motions.load()
    runner = Interpreter(str(version_dir / "assets.extra" / "model.tflite")).get_signature_runner("scored")
    answers = runner(motion=data.test_motions)["probabilities"]
    right = (answers.argmax(axis=1) == data.test_labels).mean()
    assert right == pytest.approx(read(version_dir, "metrics.json")["accuracy"])


def test_the_shipped_model_gets_39_of_40_right_and_rules_by_hand_do_not() -> None:
    found = read(SHIPPED, "metrics.json")
    assert found["accuracy"] >= 39 / 40
    assert found["rules_accuracy"] < 0.6
    assert found["tuned_rules_accuracy"] <= found["accuracy"]


def test_the_candidate_with_the_best_cross_validation_is_the_one_that_is_shipped(run: tuple[Path, str]) -> None:
    for version_dir in (run[0], SHIPPED):
        found = read(version_dir, "metrics.json")
        best = max(found["cross_validation"], key=lambda each: (each["accuracy"], -each["loss"]))
        assert [each for each in found["cross_validation"] if each["chosen"]] == [best]
        assert len(found["cross_validation"]) == len(activity.CANDIDATES)
        assert found["validation_accuracy"] == best["accuracy"]
        assert found["parameters"] < 50_000


def test_the_metrics_add_up(run: tuple[Path, str]) -> None:
    found = read(run[0], "metrics.json")
    matrix = np.array(found["confusion_matrix"])
    assert matrix.shape == (4, 4)
    assert matrix.sum() == found["test_examples"] == found["training_examples"] == 40
    assert np.trace(matrix) / 40 == found["accuracy"]
    assert list(found["classes"]) == ["Standing", "Running", "Walking", "Badminton"]
    assert [each["support"] for each in found["classes"].values()] == [10] * 4


def test_confidence_and_outliers_are_stated(run: tuple[Path, str]) -> None:
    for version_dir in (run[0], SHIPPED):
        found = read(version_dir, "metrics.json")
        for name in ("ece", "ece_uncalibrated", "validation_ece", "validation_ece_uncalibrated"):
            assert 0 <= found[name] < 0.6
        assert 0.05 < found["temperature"] < 20
        assert found["outlier_threshold"] > 0
        assert found["saved_model_bytes"] > found["twin_bytes"] > 10_000
    flagged = found["outliers_flagged"]
    assert flagged["test"] <= 0.1
    assert min(flagged["noise"], flagged["a constant"], flagged["in other units (× 9.81)"]) > 0.5
    assert flagged["steps in random order"] > 0.2


def test_the_reference_says_what_was_trained_on(run: tuple[Path, str]) -> None:
    for version_dir in (run[0], SHIPPED):
        found = read(version_dir, "reference.json")
        assert len(found["inputs"]) == 6 * 5 + 5
        assert len(found["inputs"]["motion[0] mean"]["shares"]) == 10
        assert (found["rows"], found["held_out_rows"]) == (40, 40)
        assert found["labels"].keys() == {"Standing", "Running", "Walking", "Badminton"}
        assert sum(found["labels"].values()) == pytest.approx(1)
        assert found["confidence"]["edges"]
        assert (version_dir / "assets.extra" / "reference.json").stat().st_size < 8_000


def test_both_signatures_of_the_saved_model_give_what_the_twin_gives() -> None:
    motions = basic_motions.load().train_motions
    signatures = tf.saved_model.load(str(SHIPPED)).signatures
    twin = Interpreter(str(SHIPPED / "assets.extra" / "model.tflite")).get_signature_runner("scored")(motion=motions)
    scored = signatures["scored"](motion=tf.constant(motions))
    for name, values in twin.items():
        np.testing.assert_allclose(scored[name], values, rtol=1e-4, atol=1e-5)
    plain = signatures["serving_default"](motion=tf.constant(motions))
    assert list(plain) == ["probabilities"]
    np.testing.assert_allclose(plain["probabilities"], twin["probabilities"], atol=1e-5)


def test_the_service_is_told_labels_and_an_example(run: tuple[Path, str]) -> None:
    config = read(run[0], "serving.json")
    assert config["labels"] == ["Standing", "Running", "Walking", "Badminton"]
    assert np.shape(config["example"]["instances"]) == (1, 100, 6)
    assert config["signatures"]["serving_default"]["inputs"]["motion"]["shape"] == [-1, 100, 6]
    assert config["outlier_score"] == {"signature": "scored", "output": "outlier_score", "threshold": 1.0}
    assert config["twin"]["inputs_tried"] == 1_000
    assert config["twin"]["largest_difference"] <= 1e-5


def test_it_says_what_came_out_and_what_to_do_next(run: tuple[Path, str]) -> None:
    version_dir, printed = run
    assert printed.count("accuracy") > len(activity.CANDIDATES)
    assert "Chosen: Candidate(" in printed
    assert "Epoch 3/3" in printed
    assert f"Exported    {version_dir}" in printed
    assert "Twin        proved equal on 1,000 real inputs" in printed
    assert "Next        python -m service --models" in printed


def test_the_same_seed_gives_the_accuracy_of_the_shipped_model(tmp_path: Path) -> None:
    version_dir, _ = train("activity", tmp_path)
    found, shipped = read(version_dir, "metrics.json"), read(SHIPPED, "metrics.json")
    assert found["accuracy"] == pytest.approx(shipped["accuracy"], abs=0.026)  # one recording
    for setting in ("seed", "epochs", "batch_size", "learning_rate", "rules_accuracy", "tuned_rules"):
        assert found[setting] == shipped[setting]
