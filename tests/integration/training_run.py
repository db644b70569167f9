"""`python -m training` as its user runs it, and what it leaves behind."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def train(model: str, output: Path, *flags: str) -> tuple[Path, str]:
    """The version that is exported into an empty `output`, and what is printed."""
    command = [sys.executable, "-m", "training", model, *flags, "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return output / model / "1", done.stdout


def read(version_dir: Path, name: str) -> Any:
    """A JSON file of its assets.extra."""
    return json.loads((version_dir / "assets.extra" / name).read_text())
