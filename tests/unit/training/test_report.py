"""The table of models, with made-up engines."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.engines.base import LoadError
from service.tensors.signature import DEFAULT_SIGNATURE, Signature
from tests.unit.service.fakes import FakeEngine, any_shape, signature, tensor
from training import report
from training.errors import RunError

Row = Callable[[], dict[str, str]]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """What runs every twin; TensorFlow is not installed."""
    of = signature({"x": tensor("DT_FLOAT", -1, 3)}, {"y": tensor("DT_FLOAT", -1)})
    engine = FakeEngine({DEFAULT_SIGNATURE: of}, lambda _: {})

    def load(folder: Path, config: object, choice: str) -> FakeEngine:
        if choice == "tensorflow":
            raise LoadError("TensorFlow is not installed")
        return engine

    monkeypatch.setattr(report, "load_engine", load)
    monkeypatch.setattr(report, "microseconds", lambda predict: predict() or 12.3)
    return engine


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    """Of the only version, which has no other files than a SavedModel's."""
    folder = tmp_path / "hats" / "2"
    (folder / "assets.extra").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"\0" * 1_200_000)
    (folder / "variables").mkdir()
    (folder / "variables" / "variables.index").write_bytes(b"\0" * 300_000)
    return folder / "assets.extra"


def write_twin(assets: Path, **changed: Any) -> None:
    proof = {"sha256": "", "saved_model_sha256": "", "inputs_tried": 1, "largest_difference": 0, "tolerance": 0}
    (assets / "model.tflite").write_bytes(b"\0" * 42_000)
    (assets / "serving.json").write_text(json.dumps({"twin": proof | changed}))


@pytest.fixture
def row(tmp_path: Path, engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> Row:
    """Gives the cells of the version's row, by their columns."""

    def print_and_read() -> dict[str, str]:
        report.run(report.Config(models=tmp_path))
        columns, _, cells, *_ = (line.strip("|").split("|") for line in capsys.readouterr().out.splitlines())
        return {column.strip(): cell.strip() for column, cell in zip(columns, cells, strict=True)}

    return print_and_read


def test_row_of_a_version(assets: Path, row: Row) -> None:
    metrics = {"accuracy": 0.91234, "test_examples": 10_000, "ece": 0.0123, "parameters": 243_786, "seconds": 61.2}
    (assets / "metrics.json").write_text(json.dumps(metrics))
    write_twin(assets, precision="int8", accuracy=0.9, saved_model_accuracy=0.9)
    assert row() == {
        "model": "hats",
        "version": "2",
        "on the test split": "0.9123 of 10,000",
        "calibration error": "0.0123",
        "parameters": "243,786",
        "SavedModel": "1.5 MB",
        "twin": "42 KB int8",
        "µs, litert": "12",
        "µs, tensorflow": "–",
        "training": "61 s",
    }


def test_row_of_a_version_without_files(assets: Path, row: Row) -> None:
    found = row()
    assert found["SavedModel"] == "1.5 MB"
    assert {found[name] for name in ("on the test split", "parameters", "twin", "training")} == {"–"}
    write_twin(assets)
    assert row()["twin"] == "42 KB float32"


@pytest.mark.usefixtures("assets")
def test_one_row_is_timed_on_one_core(row: Row, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    cores: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, to: cores.append(to), raising=False)
    row()
    ((_, inputs),) = engine.runs
    assert (inputs["x"].shape, inputs["x"].dtype) == ((1, 3), np.float32)
    assert cores == [{2}, {0, 1, 2}] * 2


@pytest.mark.parametrize("spec", [tensor("DT_STRING", -1), any_shape("DT_FLOAT"), tensor("DT_RESOURCE", 1)])
def test_no_random_row_of_text_or_unknown_shape(spec: Any) -> None:
    assert report.random_row(Signature("", {"x": spec}, {})) is None
    assert not report.random_row(None)


def test_folder_without_versions_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has no version, expected MODEL/NUMBER/ in it"):
        report.run(report.Config(models=tmp_path))


@pytest.mark.parametrize(
    ("file", "content"), [("metrics.json", "[1]"), ("metrics.json", "{"), ("serving.json", '{"labels": 1}')]
)
def test_damaged_file_is_named(assets: Path, row: Row, file: str, content: str) -> None:
    (assets / file).write_text(content)
    with pytest.raises(RunError, match=f"hats/2: .*{file}"):
        row()


def test_readme_has_the_printed_table_but_for_times(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).parents[3]
    report.run(report.Config(models=root / "models"))
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    lines = (root / "README.md").read_text("utf-8").splitlines()
    start = lines.index(printed[0])
    assert [without_times(line) for line in lines[start : start + len(printed)]] == list(map(without_times, printed))


def without_times(line: str) -> list[str]:
    times = [place for place, column in enumerate(report.COLUMNS) if column.startswith("µs")]
    return [cell for place, cell in enumerate(line.strip("|").split("|")) if place not in times]
