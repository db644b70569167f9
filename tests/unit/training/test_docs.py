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


SHIPPED = sorted(ROOT.glob("models/*/*/assets.extra"))


@pytest.mark.parametrize("version", SHIPPED, ids=lambda path: "-".join(path.parts[-3:-1]))
def test_every_file_and_metric_of_a_shipped_version_stands_in_the_docs(version: Path) -> None:
    for file in version.iterdir():
        assert f"`{file.name}`" in DOCS
    for metric in json.loads((version / "metrics.json").read_text("utf-8")):
        assert f"`{metric}`" in DOCS
