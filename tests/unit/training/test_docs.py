"""docs/training.md leaves out no flag, file or metric."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from training.__main__ import COMMANDS, MODELS

ROOT = Path(__file__).parents[3]
DOCS = (ROOT / "docs" / "training.md").read_text("utf-8")
SHIPPED = sorted(ROOT.glob("models/*/*/assets.extra"))


@pytest.mark.parametrize("module", MODELS + COMMANDS, ids=lambda module: module.NAME)
def test_docs_name_every_flag(module: Any) -> None:
    for field in dataclasses.fields(module.Config):
        if not field.metadata.get("positional"):
            assert f"`--{field.name.replace('_', '-')}`" in DOCS


@pytest.mark.parametrize("version", SHIPPED, ids=lambda path: "-".join(path.parts[-3:-1]))
def test_docs_name_every_file_and_metric_of_a_version(version: Path) -> None:
    for file in version.iterdir():
        assert f"`{file.name}`" in DOCS
    for metric in json.loads((version / "metrics.json").read_text("utf-8")):
        assert f"`{metric}`" in DOCS
