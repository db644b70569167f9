"""The table of expected and true accuracies, of a made-up model."""

from pathlib import Path

import numpy as np
import pytest

from service.serving_config import ServingConfig
from service.tensors.signature import DEFAULT_SIGNATURE
from tests.unit.service.fakes import FakeEngine
from tests.unit.service.watched_for_drift import LABELS, REFERENCE, SIGNATURE, how_high, write_reference
from training import estimate, replay
from training.__main__ import main
from training.evaluation.classifier import Examples

CALIBRATION = {"confidence": [0.0, 1.0], "accuracy": [0.0, 1.0]}


@pytest.fixture
def version_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a model that is right about 0 to 10 as often as it is sure."""
    x = np.random.default_rng(0).uniform(0, 10, 4_000).astype(np.float32)
    labels = (np.random.default_rng(1).uniform(size=len(x)) < x / 10).astype(np.int64)
    monkeypatch.setattr(replay, "load_engine", lambda *_: FakeEngine({DEFAULT_SIGNATURE: SIGNATURE}, how_high))
    monkeypatch.setattr(replay, "read_serving_config", lambda _: ServingConfig(labels=LABELS))
    altered = lambda inputs, _seed: {"all high": np.full_like(inputs, 10)}  # noqa: E731
    monkeypatch.setitem(estimate.TESTS, "clothing", lambda: (Examples(x, labels), altered))
    folder = tmp_path / "clothing" / "1"
    folder.mkdir(parents=True)
    return folder


def run(version_dir: Path) -> int:
    return main(["estimate", "clothing/1", "--models", str(version_dir.parents[1]), "--rows", "1000"])


def test_table_has_expected_and_true_accuracy(version_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_reference(version_dir, REFERENCE | {"calibration": CALIBRATION})
    assert run(version_dir) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    table = {what: (int(count.replace(",", "")), *map(float, numbers)) for _, _, what, count, *numbers, _ in rows}
    assert table["untouched"][0] == 4_000
    assert table["untouched"][3] == pytest.approx(0, abs=0.02)
    count, true, expected, difference = table["all high"]
    assert (count, expected) == (1_000, 1.0)
    assert true == pytest.approx(0.5, abs=0.05)
    assert difference == pytest.approx(expected - true)
    assert table["of other labels"][0] < 1_000
    assert {row[-1] for row in rows} == {"–"}


def test_version_of_which_nothing_is_expected_is_an_error(
    version_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_reference(version_dir, REFERENCE)
    assert run(version_dir) == 1
    assert "clothing/1 has neither a calibration nor a low validation_ece" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["clothing"], "expected MODEL/VERSION"),
        (["regression/1"], "no test examples"),
        (["photos/1", "--rows", "0"], "rows is 0"),
    ],
)
def test_invalid_arguments_are_errors(arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["estimate", *arguments])
    assert ended.value.code == 2
    assert why in capsys.readouterr().err
