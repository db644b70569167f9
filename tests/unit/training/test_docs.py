"""docs/training.md against what it describes."""

import dataclasses
import json
from pathlib import Path

import pytest

from training.__main__ import MODELS

ROOT = Path(__file__).parents[3]
DOCS = (ROOT / "docs" / "training.md").read_text("utf-8")


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.NAME)
def test_every_flag_stands_in_the_docs(model: type) -> None:
    for field in dataclasses.fields(model.Config):  # type: ignore[attr-defined]
        assert f"`--{field.name.replace('_', '-')}`" in DOCS


@pytest.mark.parametrize("name", [model.NAME for model in MODELS])
def test_every_file_and_metric_of_a_shipped_version_stands_in_the_docs(name: str) -> None:
    assets = ROOT / "models" / name / "1" / "assets.extra"
    for file in assets.iterdir():
        assert f"`{file.name}`" in DOCS
    for metric in json.loads((assets / "metrics.json").read_text("utf-8")):
        assert f"`{metric}`" in DOCS
