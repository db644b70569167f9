"""The tables on confidence and outliers in docs/training.md against the metrics of the shipped versions."""

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
SECTION = (ROOT / "docs" / "training.md").read_text("utf-8").split("## How sure a classifier is")[1].split("\n## ")[0]
VERSIONS = {"clothing 1": "clothing/1", "clothing 2": "clothing/2", "activity": "activity/1", "photos": "photos/1"}
# The columns of the table of outliers, each under the names that it has for the models.
COLUMNS = (
    ("test",),
    ("uniform noise", "noise"),
    ("pixels in random order", "steps in random order"),
    ("of one shade", "a constant"),
    ("inverted",),
    ("upside down",),
)


def metrics(name: str) -> dict[str, Any]:
    path = ROOT / "models" / VERSIONS[name] / "assets.extra" / "metrics.json"
    loaded: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return loaded


def rows(name: str) -> list[list[str]]:
    """What stands in the cells of the section's rows about `name`."""
    lines = [line for line in SECTION.splitlines() if line.startswith(f"| {name} |")]
    return [[cell.strip() for cell in line.split("|")[2:-1]] for line in lines]


@pytest.mark.parametrize("name", VERSIONS)
def test_calibration_is_told_as_it_was_measured(name: str) -> None:
    found = metrics(name)
    assert rows(name)[0] == [
        f"{found['temperature']:.2f}",
        f"{found['validation_ece_uncalibrated']:.3f} → {found['validation_ece']:.3f}",
        f"{found['ece_uncalibrated']:.3f} → {found['ece']:.3f}",
    ]


@pytest.mark.parametrize("name", VERSIONS)
def test_flagged_shares_are_told_as_they_were_measured(name: str) -> None:
    flagged = metrics(name)["outliers_flagged"]
    cells = rows(name)[1]
    expected = [next((flagged[each] for each in column if each in flagged), None) for column in COLUMNS]
    assert [float(cell) if cell else None for cell in cells[:6]] == [
        None if share is None else round(share, 3 if place == 0 else 2) for place, share in enumerate(expected)
    ]
    others = [share for name, share in flagged.items() if not any(name in column for column in COLUMNS)]
    if cells[6]:
        assert float(cells[6].split(" ")[0]) in [round(share, 2) for share in others]
