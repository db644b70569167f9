"""A reference from captured requests. The engine is a fake."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.drift.reference import REFERENCE_FILE, read_reference
from service.observability.capture import Captured, encode_line, encode_tensors
from service.serving_config import ASSETS, OutlierScore, ServingConfig
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE
from tests.unit.service.fakes import Arrays, FakeEngine, signature, tensor
from tests.unit.service.watched_for_drift import LABELS, REFERENCE, SIGNATURE, how_high, write_reference
from training import reference, replay
from training.__main__ import main

CALIBRATION = {"confidence": [0.0, 1.0], "accuracy": [0.0, 0.9]}
SCORED = OutlierScore(signature="scored", output="score", threshold=2.0)


def with_score(inputs: Arrays) -> dict[str, Array]:
    return how_high(inputs) | {"score": inputs["x"] / 4}


class Bench:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.models, self.file = folder / "models", folder / "requests.jsonl"
        self.version = self.models / "model" / "2"
        for number in ("1", "2"):
            (self.models / "model" / number).mkdir(parents=True)
        scored = signature({"x": tensor("DT_FLOAT", -1)}, SIGNATURE.outputs | {"score": tensor("DT_FLOAT", -1)})
        engine = FakeEngine({DEFAULT_SIGNATURE: SIGNATURE, "scored": scored}, with_score)
        monkeypatch.setattr(replay, "load_engine", lambda *_: engine)
        monkeypatch.setattr(replay, "read_serving_config", lambda _: ServingConfig(labels=LABELS, outlier_score=SCORED))

    def captured(self, rows: Array, **changed: Any) -> None:
        """Adds a request with these rows."""
        given: dict[str, Any] = {
            "time": datetime(2026, 1, 2, tzinfo=UTC),
            "request_id": "mine",
            "model": "model",
            "version": 1,
            "engine": "fake",
            "protocol": "v1",
            "verb": "predict",
            "signature": DEFAULT_SIGNATURE,
            "inputs": encode_tensors({"x": rows.astype(np.float32)}),
            "outputs": {},
        }
        with self.file.open("ab") as file:
            file.write(encode_line(Captured(**given | changed)))

    def run(self, *more: str) -> tuple[int, str, str]:
        arguments = ["reference", "model", "--from", str(self.file), "--models", str(self.models), *more]
        status = main(arguments)
        out = self._capsys.readouterr()
        return status, out.out, out.err


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(tmp_path, monkeypatch, capsys)


def test_captured_rows_become_the_newest_version_s_reference(bench: Bench) -> None:
    write_reference(bench.version, REFERENCE | {"calibration": CALIBRATION})
    for start in range(0, 200, 4):
        bench.captured(np.linspace(0, 10, 200)[start : start + 4], version=1 + start % 8 // 4)
    bench.captured(np.zeros(50), model="other")
    status, out, _ = bench.run()
    assert status == 0
    assert "200 (100 to version 1, 100 to version 2)" in out
    found = read_reference(bench.version)
    assert found is not None
    assert (found.rows, found.held_out_rows) == (200, 200)
    assert found.inputs["x"].edges == pytest.approx(np.arange(1, 10), abs=0.1)
    assert found.labels == pytest.approx({"low": 0.5, "high": 0.5}, abs=0.01)
    # The score is x / 8.
    assert found.outlier_score is not None
    assert sum(found.outlier_score.shares[found.outlier_score.edges.index(1) + 1 :]) == pytest.approx(0.2, abs=0.01)
    assert found.calibration is not None
    assert found.calibration.accuracy == (0, 0.9)


def test_file_before_is_kept_as_the_older_one(bench: Bench) -> None:
    write_reference(bench.version, b"damaged")
    bench.captured(np.arange(100))
    assert bench.run("--version", "2")[0] == 0
    assets = bench.version / ASSETS
    assert sorted(path.name for path in assets.iterdir()) == [REFERENCE_FILE, f"{REFERENCE_FILE}.1"]
    assert (assets / f"{REFERENCE_FILE}.1").read_bytes() == b"damaged"
    assert "calibration" not in json.loads((assets / REFERENCE_FILE).read_text())


def test_requests_that_cannot_be_run_are_left_out(bench: Bench) -> None:
    bench.captured(np.arange(reference.MIN_ROWS))
    bench.captured(np.arange(5), signature="another")
    bench.captured(np.arange(5), inputs=encode_tensors({"x": np.arange(5)}))
    with bench.file.open("ab") as file:
        file.write(b"half a li")
    status, out, err = bench.run("--version", "1")
    assert status == 0
    assert "2 requests; the first: " in out
    assert "damaged, and left out: " in err
    found = read_reference(bench.models / "model" / "1")
    assert found is not None
    assert found.rows == reference.MIN_ROWS


def test_few_rows_change_nothing(bench: Bench) -> None:
    write_reference(bench.version, REFERENCE)
    before = read_reference(bench.version)
    bench.captured(np.arange(reference.MIN_ROWS - 1))
    status, _, err = bench.run()
    assert status == 1
    assert "99 rows of model were captured; expected 100 or more" in err
    assert read_reference(bench.version) == before
    assert not (bench.version / ASSETS / f"{REFERENCE_FILE}.1").exists()


def test_unknown_version_is_an_error(bench: Bench) -> None:
    bench.captured(np.arange(100))
    assert "has no model/3; it has model/1, model/2" in bench.run("--version", "3")[2]
    assert "has no model 'model'" in bench.run("--models", str(bench.models / "model" / "1"))[2]
