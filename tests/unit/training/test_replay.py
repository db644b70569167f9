"""Replay: captured requests, run again. The engine is a fake; the test sets its outputs."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from msgspec.structs import replace

from service.engines.base import LoadError
from service.errors import InvalidRequest
from service.observability.capture import Captured, encode_line, encode_tensors
from service.serving_config import ServingConfig
from service.tensors.dtypes import Array
from tests.unit.service.fakes import Arrays, FakeEngine, RunFunction, signature, tensor
from training import replay
from training.__main__ import main

LABELS = ("bag", "coat", "shoe")
OF = signature({"x": tensor("DT_FLOAT", -1, 3)}, {"scores": tensor("DT_FLOAT", -1, 3)})


def scores(*labels: str) -> Array:
    """Of which these labels come first."""
    return np.array([[0.8 if each == label else 0.1 for each in LABELS] for label in labels], np.float32)


def bags_are_coats(inputs: Arrays) -> dict[str, Array]:
    return {"scores": np.where(inputs["x"][:, :1] > 0.5, scores("coat"), inputs["x"])}


MADE = Captured(
    datetime(2026, 1, 2, tzinfo=UTC), "mine", "model", 1, "fake", "v1", "predict", "serving_default", {}, {}
)


def captured(then: Array, x: Array | None = None, **changed: Any) -> bytes:
    given = {"inputs": encode_tensors({"x": then if x is None else x}), "outputs": encode_tensors({"scores": then})}
    return encode_line(replace(MADE, **given | changed))


def of(*labels: str, **changed: Any) -> bytes:
    return captured(scores(*labels), labels=list(labels), **changed)


class Bench:
    """A folder with the model's version 2, which returns its input unless the test says otherwise."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.answer: RunFunction = lambda inputs: {"scores": inputs["x"]}
        self.labels: tuple[str, ...] = LABELS
        self.models = folder / "models"
        self.file = folder / "requests.jsonl"
        (self.models / "model" / "2").mkdir(parents=True)
        monkeypatch.setattr(replay, "load_engine", lambda *_: FakeEngine({"serving_default": OF}, self.answer))
        monkeypatch.setattr(replay, "read_serving_config", lambda _: ServingConfig(labels=self.labels))

    def run(self, *more: str, against: str = "model/2") -> tuple[int, str, str]:
        status = main(["replay", str(self.file), *more, "--against", against, "--models", str(self.models)])
        out = self._capsys.readouterr()
        return status, out.out, out.err

    def replay(self, *lines: bytes) -> dict[str, Any]:
        """What is counted."""
        self.file.write_bytes(b"".join(lines))
        status, out, _ = self.run("--json")
        assert status == 0
        return dict(json.loads(out))

    def error(self, *lines: bytes) -> str:
        self.file.write_bytes(b"".join(lines))
        status, out, error = self.run()
        assert (status, out) == (1, "")
        return error


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(tmp_path, monkeypatch, capsys)


def test_same_prediction_agrees(bench: Bench) -> None:
    told = bench.replay(of("bag", "coat"), of("shoe", version=2))
    assert told.pop("microseconds_a_row") > 0
    assert told == {
        "model": "model",
        "version": 2,
        "engine": "fake",
        "requests": 2,
        "requests_by_version": {"1": 1, "2": 1},
        "rows": 3,
        "agreeing": 2,
        "agreement": 1.0,
        "largest_difference": 0.0,
        "largest_difference_in": "scores",
        "confusion": {"bag": {"bag": 1}, "coat": {"coat": 1}, "shoe": {"shoe": 1}},
        "requests_of_other_models": {},
        "not_run": [],
        "damaged": [],
    }


def test_first_labels_are_compared(bench: Bench) -> None:
    bench.answer = lambda inputs: {"scores": bags_are_coats(inputs)["scores"] / 2}
    told = bench.replay(of("coat"), of("shoe", "bag"), of("bag"))
    assert (told["requests"], told["agreeing"]) == (3, 1)
    assert told["confusion"] == {"bag": {"coat": 2}, "coat": {"coat": 1}, "shoe": {"shoe": 1}}
    assert told["largest_difference"] == pytest.approx(0.8 - 0.05)


@pytest.mark.parametrize(
    ("then", "now", "agreeing", "largest"),
    [
        (np.array([2.0, 10.0]), {"y": np.array([2.0002, 10.001])}, 1, 0.001),
        (np.array([2.0, 10.0]), {"y": np.array([2.0, 10.1])}, 0, 0.1),
        (np.array([b"a"], object), {"y": np.array([b"a"], object)}, 1, 0),
        (np.array([b"a"], object), {"y": np.array([b"b"], object)}, 0, 0),
        (np.array([2.0]), {"z": np.array([2.0])}, 0, 0),
    ],
    ids=["close", "not close", "same text", "other text", "another output"],
)
def test_without_labels_outputs_are_compared(
    bench: Bench, then: Array, now: Any, agreeing: int, largest: float
) -> None:
    bench.labels = ()
    bench.answer = lambda _: now
    told = bench.replay(captured(scores("bag"), outputs=encode_tensors({"y": then})))
    assert (told["requests"], told["agreeing"], told["confusion"]) == (1, agreeing, {})
    assert told["largest_difference"] == pytest.approx(largest)


def test_nan_differs_infinitely_from_a_number(bench: Bench) -> None:
    bench.labels = ()
    bench.answer = lambda inputs: {"scores": inputs["x"] * np.array([1, np.nan, 1], np.float32)}
    assert bench.replay(captured(np.array([[np.nan, 1, np.inf]], np.float32)))["largest_difference"] is None
    _, out, _ = bench.run()
    assert "| largest difference | inf in scores |" in out


def test_table_shows_changes_over_all_files(bench: Bench, tmp_path: Path) -> None:
    bench.answer = bags_are_coats
    bench.replay(of("coat"))
    (older := tmp_path / "requests.jsonl.1").write_bytes(of("bag", "bag") + of("bag", model="other"))
    status, out, error = bench.run(str(older))
    assert (status, error) == (0, "")
    assert re.sub(r"time of a row \| [\d,]+ µs", "time of a row | 1 µs", out).splitlines() == [
        "|  |  |",
        "| --- | --- |",
        "| asked now | model/2, by fake |",
        "| requests | 2 (2 of version 1) |",
        "| rows | 3 |",
        "| agreement | 50.00% of the requests: the same label first in every row |",
        "| largest difference | 0.7 in scores |",
        "| time of a row | 1 µs |",
        "| of other models | other |",
        "",
        "| label | rows then | rows now | in both |",
        "| --- | --- | --- | --- |",
        "| bag | 2 | 0 | 0 |",
        "| coat | 1 | 3 | 1 |",
        "",
        "| then | now | rows |",
        "| --- | --- | --- |",
        "| bag | coat | 2 |",
    ]


def test_damaged_lines_are_left_out_and_the_first_five_named(bench: Bench) -> None:
    unfit = of("bag").replace(b'"shape":[1,3]', b'"shape":[1,4]')
    told = bench.replay(of("coat"), of("bag")[:50] + b"\n", b"{}\n", of("bag"), unfit, *[b"damaged\n"] * 5)
    assert told["requests"] == 2
    _, missing, shape, *_ = told["damaged"]
    assert missing.startswith(f"{bench.file}, line 3: Object missing required field `time`")
    assert shape.startswith(f"{bench.file}, line 5: 'x' has 3 values")
    _, _, error = bench.run()
    assert error.count(f"damaged, and left out: {bench.file}, line ") == 5
    assert error.endswith("and 3 lines more\n")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (captured(scores("bag"), np.zeros((1, 2), np.float32)), "input 'x' has the shape [1, 2]; expected [-1, 3]"),
        (captured(scores("bag"), np.zeros((1, 3), np.int32)), "input 'x' is int32, expected DT_FLOAT"),
        (captured(scores("bag"), inputs=encode_tensors({"y": scores("bag")})), "unknown input 'y'; expected 'x'"),
        (captured(scores("bag"), signature="other"), 'Serving signature key "other" not found'),
        (captured(scores("bag"), np.full((1, 3), -1, np.float32)), "negative"),
    ],
)
def test_request_that_cannot_be_run_is_named(bench: Bench, line: bytes, reason: str) -> None:
    def answer(inputs: Arrays) -> dict[str, Array]:
        if (inputs["x"] < 0).any():
            raise InvalidRequest("negative")
        return {"scores": inputs["x"]}

    bench.answer = answer
    told = bench.replay(of("coat"), line)
    assert told["requests"] == 1
    (where,) = told["not_run"]
    assert where.startswith(f"{bench.file}, line 2: {reason}")
    assert f"none of the 2 requests can be run; the first: {bench.file}, line 1: {reason}" in bench.error(line, line)


@pytest.mark.parametrize(
    ("lines", "found"),
    [([of("coat", model="other")], "there are 1 of other\n"), ([b"no JSON\n"] * 7, "there are 7 damaged lines\n")],
)
def test_no_request_of_the_model_is_an_error(bench: Bench, lines: list[bytes], found: str) -> None:
    assert bench.error(*lines).endswith(f"no request of model was captured; {found}")


@pytest.mark.parametrize("against", ["model/3", "nowhere/2"])
def test_missing_version_is_an_error_that_lists_versions(bench: Bench, against: str) -> None:
    status, _, error = bench.run(against=against)
    assert status == 1
    assert f"has no {against}; it has model/2" in error


@pytest.mark.parametrize("against", ["model", "model/", "model/new", "a/b/2"])
def test_invalid_version_name_is_an_error(bench: Bench, against: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.run(against=against)
    assert f"against is {against!r}, expected MODEL/VERSION" in capsys.readouterr().err


def test_missing_file_and_failed_load_are_errors(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench.run()[::2] == (1, f"python -m training: {bench.file}: No such file or directory\n")
    monkeypatch.setattr(replay, "load_engine", Mock(side_effect=LoadError("TensorFlow is not installed")))
    assert "model/2 cannot be loaded: TensorFlow is not installed" in bench.error()
