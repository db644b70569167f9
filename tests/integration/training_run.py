"""`python -m training` in this process, and what it leaves behind."""

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from training.__main__ import main

ROOT = Path(__file__).parents[2]
EVERY_MODEL = {"README.md", "learning_curve.png", "metrics.json", "model.tflite", "reference.json", "serving.json"}
CLASSIFIER = EVERY_MODEL | {"confusion_matrix.png", "reliability.png", "samples"}


def run(*arguments: str) -> str:
    """What it prints."""
    with redirect_stdout(io.StringIO()) as printed:
        assert main(list(arguments)) == 0
    return printed.getvalue()


def train(model: str, output: Path, *flags: str) -> Path:
    """The version that is exported into an empty `output`."""
    run(model, *flags, "--output", str(output))
    return output / model / "1"


def files(version_dir: Path) -> set[str]:
    """The names in its assets.extra."""
    return {path.name for path in (version_dir / "assets.extra").iterdir()}


def read(version_dir: Path, name: str) -> Any:
    """A JSON file of its assets.extra."""
    return json.loads((version_dir / "assets.extra" / name).read_text())
