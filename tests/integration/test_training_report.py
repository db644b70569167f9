from pathlib import Path

import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")

from tests.integration.training_run import run


def test_report_has_times_of_both_engines(models: Path) -> None:
    columns, _, row = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in run("report", "--models", str(models)).splitlines()
        if line.startswith("|")
    )
    cells = dict(zip(columns, row, strict=True))
    assert cells["model"] == "regression"
    assert int(cells["µs, litert"].replace(",", "")) > 0
    assert int(cells["µs, tensorflow"].replace(",", "")) > 0
