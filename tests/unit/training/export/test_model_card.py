"""Cards made from the shipped versions' metrics."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training import folder
from training.export import model_card
from training.models import activity, clothing, photos, regression

MODELS = Path(__file__).parents[4] / "models"
CARDS: dict[str, Callable[[dict[str, Any], str], str]] = {
    "activity/1": activity.card,
    "clothing/2": clothing.card,
    "photos/1": photos.card,
    "regression/1": regression.card,
}


def metrics_of(version: str) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((MODELS / version / "assets.extra" / "metrics.json").read_text())
    return metrics


def twin_line(card: str) -> str:
    """What the card says of the twin, up to the sentence on its inputs."""
    text = " ".join(card.split("- **Twin:** ")[1].split())
    return text.split("; the inputs are ")[0].split(". The inputs are ")[0]


@pytest.mark.parametrize("version", CARDS)
def test_metrics_give_the_shipped_card(version: str) -> None:
    shipped = (MODELS / version / "assets.extra" / "README.md").read_text("utf-8")
    assert CARDS[version](metrics_of(version), twin_line(shipped)) == shipped


def test_dense_network_has_points_of_its_own() -> None:
    card = clothing.card(metrics_of("clothing/1"), "none shipped ({reason})")
    assert "- **Architecture:** Rescaling(1/255), Flatten, Dense(128, relu), Dense(10); 101,770 parameters." in card
    assert "- **Twin:** none shipped ({reason}); the inputs are the validation pictures." in card
    assert "## Runs that led here" not in card
    assert max(len(line) for line in card.splitlines() if line.startswith(("- ", "  "))) <= 120


def test_folder_card_names_model_and_skipped_files() -> None:
    metrics = metrics_of("photos/1") | {"model": "shoes", "skipped": ["shoes/a.jpg: damaged", "shoes/{b}.txt"]}
    card = folder.card(metrics, "in float16")
    assert card.startswith("# shoes, version 1\n\nTells 10 kinds of pictures apart.")
    assert "2 skipped." in card
    assert "\n## Skipped\n- shoes/a.jpg: damaged\n- shoes/{b}.txt\n" in card
    assert "## Skipped" not in folder.card(metrics | {"skipped": []}, "in float16")


def test_test_without_errors_and_class_never_predicted() -> None:
    metrics = metrics_of("activity/1") | {"twin_bytes": None, "cores": 1}
    metrics["confusion_matrix"] = [[10 if row == column else 0 for column in range(4)] for row in range(4)]
    metrics["classes"]["Running"]["precision"] = None
    found = model_card.classifier_values(metrics, "none", "recordings")
    assert found["errors"] == "- None."
    assert "| Running | – | 1.000 | 10 |" in found["results"]
    assert found["sizes"].endswith("twin none")
    assert found["counted_cores"] == "1 core"
