"""`python -m training report` on the shipped models, with the engines that serve them."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")

from service.lifecycle.repository import Repository

ROOT = Path(__file__).parents[2]


def test_every_shipped_version_has_times_of_both_engines() -> None:
    command = [sys.executable, "-m", "training", "report"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    columns, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if line[:1] == "|"
    )
    assert [(model, int(version)) for model, version, *_ in rows] == list(Repository(ROOT / "models").versions())
    for row in rows:
        cells = dict(zip(columns, row, strict=True))
        assert int(cells["µs, litert"].replace(",", "")) > 0
        assert int(cells["µs, tensorflow"].replace(",", "")) > 0
        assert cells["on the test split"] != "–"
