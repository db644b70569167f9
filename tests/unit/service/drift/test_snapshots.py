import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.drift.card import Card
from service.drift.monitor import MIN_ROWS
from service.drift.snapshots import KEPT_DAYS, Snapshots
from service.inference.version import LoadedVersion
from service.tensors.signature import DEFAULT_SIGNATURE
from tests.unit.service.watched_for_drift import REFERENCE, honest, how_high, version, watched

NAME = "model-1-2026-11-29.json"


class Days:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 29, 23, 50, tzinfo=UTC)


@pytest.fixture
def days() -> Days:
    return Days()


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedVersion:
    of = replace(version(), card=Card(0.9, 0.01))
    return replace(of, drift=watched(tmp_path / "version", of))


@pytest.fixture
def new(tmp_path: Path, loaded: LoadedVersion, days: Days) -> Callable[[], Snapshots]:
    """Makes what a worker process has."""
    folder = tmp_path / "snapshots"
    folder.mkdir()
    return lambda: Snapshots(folder, lambda: [loaded, version()], lambda: days.now)


def observe(loaded: LoadedVersion, rows: int) -> None:
    inputs = {"x": honest(rows)}
    inputs["x"][0] = np.nan
    assert loaded.drift is not None
    loaded.drift.observe(DEFAULT_SIGNATURE, inputs, how_high({"x": honest(rows)}))


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "snapshots").iterdir() if path.name != ".lock")


def read(tmp_path: Path) -> dict[str, dict[str, Any]]:
    return {row["feature"]: row for row in json.loads((tmp_path / "snapshots" / NAME).read_text())}


def test_snapshot_has_a_row_for_each_feature(
    tmp_path: Path, loaded: LoadedVersion, new: Callable[[], Snapshots]
) -> None:
    observe(loaded, 500)
    new().write()
    rows = read(tmp_path)
    assert list(rows) == ["x", "confidence", "label"]
    x, label = rows["x"], rows["label"]
    assert (x["timestamp"], x["model"], x["version"], x["rows"]) == ("2026-11-29T23:50:00Z", "model", 1, 500)
    assert (x["edges"], x["labels"]) == (REFERENCE["inputs"]["x"]["edges"], None)
    assert x["reference"] == [0.1] * 10
    assert (len(x["counts"]), sum(x["counts"]), x["nan"]) == (10, 499, 1)
    assert (label["edges"], label["labels"], label["shift"]) == (None, [["low"], ["high"]], None)
    assert (len(label["counts"]), sum(label["counts"])) == (2, 500)
    assert x["expected_accuracy"] == pytest.approx(0.75, abs=0.05)
    assert (x["card_accuracy"], x["outliers"]) == (0.9, None)


def test_day_without_rows_has_no_file(
    tmp_path: Path, loaded: LoadedVersion, days: Days, new: Callable[[], Snapshots]
) -> None:
    snapshots = new()
    observe(loaded, MIN_ROWS - 1)
    snapshots.write()
    assert files(tmp_path) == []
    observe(loaded, 1)
    snapshots.write()
    days.now += timedelta(minutes=10)
    snapshots.write()
    assert files(tmp_path) == [NAME]
    observe(loaded, 1)
    snapshots.write()
    assert files(tmp_path) == [NAME, "model-1-2026-11-30.json"]


def test_one_process_writes_and_another_follows_it(
    tmp_path: Path, loaded: LoadedVersion, new: Callable[[], Snapshots]
) -> None:
    first, second = new(), new()
    observe(loaded, 100)
    first.write()
    observe(loaded, 100)
    second.write()
    assert read(tmp_path)["x"]["rows"] == 100
    first.close()
    assert read(tmp_path)["x"]["rows"] == 200
    observe(loaded, 100)
    second.write()
    assert read(tmp_path)["x"]["rows"] == 300


def test_folder_that_is_gone_is_logged_once(
    tmp_path: Path, new: Callable[[], Snapshots], caplog: pytest.LogCaptureFixture
) -> None:
    snapshots = new()
    (tmp_path / "snapshots").rmdir()
    snapshots.close()
    snapshots.close()
    (record,) = caplog.records
    assert "no snapshots of drift are written: " in record.message


def test_old_files_are_removed_and_others_are_not(
    tmp_path: Path, loaded: LoadedVersion, days: Days, new: Callable[[], Snapshots]
) -> None:
    old, kept = ((days.now - timedelta(days=KEPT_DAYS + more)).date() for more in (1, 0))
    names = [f"model-1-{old}.json", f"model-1-{kept}.json", "model-1-2026-99-99.json", f"notes-{old}.json"]
    for name in names:
        (tmp_path / "snapshots" / name).write_text("[]")
    new().write()
    assert files(tmp_path) == sorted(names[1:])
