"""`python -m training` up to where TensorFlow would start."""

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from training import exercises, replay
from training.__main__ import COMMANDS, MODELS, main
from training.errors import DatasetError
from training.models import clothing

ROOT = Path(__file__).parents[3]

Fail = Callable[..., tuple[object, str]]


@pytest.fixture
def fail(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Calls main() with these arguments; returns the status, and the error's one line."""
    for module in MODELS + COMMANDS:  # what is not refused must not train for an hour
        monkeypatch.setattr(module, "run", lambda config: None)

    def call(*arguments: str) -> tuple[object, str]:
        try:
            status: object = main([*arguments])
        except SystemExit as error:
            status = error.code
        line = capsys.readouterr().err
        assert line.startswith("python -m training")
        assert line.index("\n") == len(line) - 1
        return status, line

    return call


def help_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--help"])
    assert caught.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_names_every_model_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of([], capsys)
    models = {"regression", "clothing", "activity", "photos"}
    names = models | {"folder", "import", "exercises", "report", "replay", "relabel", "estimate", "reference"}
    assert names == {each.NAME for each in MODELS + COMMANDS}
    assert all(f" {name} " in text for name in names)
    assert text.count("Result: ") == text.count("Cost: ") == len(names)


@pytest.mark.parametrize("module", MODELS + COMMANDS, ids=lambda module: module.NAME)
def test_help_states_each_flag_and_default(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of([module.NAME], capsys)
    for each in dataclasses.fields(module.Config):
        name = each.name.upper() if each.metadata.get("positional") else f"--{each.name.rstrip('_').replace('_', '-')}"
        assert re.search(rf"[ \[]{re.escape(name)}[ ,\]]", text)
        if each.default not in (dataclasses.MISSING, ""):
            assert f"(default: {each.metadata.get('default', each.default)})" in text
    assert "Result: " in text
    assert "Cost: " in text


def test_flag_of_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[replay.Config] = []
    monkeypatch.setattr(replay, "run", runs.append)
    assert main(["replay", "new", "old", "--against", "m/1"]) == 0
    assert main(["replay", "--no-json", "--against", "m/1", "new"]) == 0
    assert main(["replay", "new", "--json", "--against", "m/1", "--models", "here", "--engine", "litert"]) == 0
    one = replay.Config(file=(Path("new"),), against="m/1")
    two, other = (
        replace(one, file=(Path("new"), Path("old"))),
        replace(one, json=True, models=Path("here"), engine="litert"),
    )
    assert runs == [two, one, other]


def test_help_needs_no_tensorflow() -> None:
    code = "import sys, training.__main__ as m\ntry: m.main(['clothing', '--help'])\nexcept SystemExit: pass\n"
    loaded = "print(sorted({'tensorflow', 'keras', 'matplotlib', 'aeon', 'torch'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code + loaded], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "the following arguments are required: NAME"),
        (["hats"], "invalid choice: 'hats'"),
        (["activity", "--epochs", "0"], "epochs is 0, expected 1 or more"),
        (["activity", "--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
        (["clothing", "--epochs", "0"], "clothing: epochs is 0, expected 1 or more"),
        (["clothing", "--learning-rate", "0"], "learning_rate is 0.0, expected a number above 0"),
        (["clothing", "--learning-rate", "nan"], "learning_rate is nan, expected a number above 0"),
        (["clothing", "--network", "none"], "argument --network: invalid choice: 'none'"),
        (["photos", "--folds", "1"], "folds is 1, expected 2 to 5"),
        (["photos", "--folds", "6"], "folds is 6, expected 2 to 5"),
        (["regression", "--learning-rate", "inf"], "learning_rate is inf, expected a number above 0"),
        (["regression", "--seed", "-1"], "seed is -1, expected 0 to 4294967295"),
        (["regression", "--output", __file__], "which is a file, expected a folder"),
        (["regression", "--output", ""], "argument --output: expected a path, it is empty"),
        (["regression", "--speed", "9"], "unrecognized arguments: --speed 9"),
        (["exercises", "--only", "units-128,hats"], "only has 'hats', expected of units-128, units-512"),
        (["exercises", "--seed", "-1"], "seed is -1, expected 0 to 4294967295"),
        (["exercises", "--output", __file__], "which is a file, expected a folder"),
        (["folder", "no/folder", "--name", "shoes"], "directory is no/folder, no folder that exists"),
        (["import", "m.keras", "--name", "m", "--scale", "1/0"], "scale is '1/0', expected a number above 0"),
        (["import", "m.keras", "--name", "m", "--image", "wide"], "image has 'wide', expected of stretch"),
        (["import", "m.keras", "--name", "m", "--output", __file__], "which is a file, expected a folder"),
        (["folder", __file__, "--name", "shoes"], "test_cli.py, a file; expected a folder"),
    ],
)
def test_invalid_value_is_one_line(arguments: list[str], says: str, fail: Fail) -> None:
    status, line = fail(*arguments)
    assert status == 2
    assert says in line


def test_each_network_has_its_own_epochs_and_rate() -> None:
    dense, convolution = clothing.Config(network="dense"), clothing.Config()
    assert (dense.epochs, dense.learning_rate) == (12, 0.002)
    assert (convolution.network, convolution.epochs, convolution.learning_rate) == ("convolution", 36, 0.1)
    assert clothing.Config(network="dense", epochs=3).epochs == 3


def test_all_exercises_are_chosen_unless_some_are_named() -> None:
    assert exercises.Config().chosen == exercises.EXERCISES
    units, longer = exercises.Config(only="epochs-15,units-512").chosen
    assert units.name == "units-512"
    assert (longer.label, replace(longer, epochs=3).label) == ("epochs-15", "epochs-3")


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (KeyboardInterrupt(), 130, "interrupted, nothing was exported\n"),
        (KeyboardInterrupt("the same command goes on"), 130, "nothing was exported; the same command goes on\n"),
        (DatasetError("t10k-labels is missing"), 1, "t10k-labels is missing"),
        (ModuleNotFoundError(name="keras"), 1, "keras is missing; training needs pip install --no-deps"),
        (OSError(28, "No space left on device", "models/x"), 1, "models/x: No space left on device"),
        (OSError(28, "No space left on device"), 1, "/models: No space left on device"),
    ],
)
def test_failed_run_is_one_line(
    error: BaseException, status: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: Fail
) -> None:
    def run(config: object) -> None:
        raise error

    monkeypatch.setattr("training.models.regression.run", run)
    found, line = fail("regression", "--output", str(tmp_path / "models"))
    assert found == status
    assert says in line


def test_output_that_cannot_be_created_is_one_line(tmp_path: Path, fail: Fail) -> None:
    (tmp_path / "file").touch()
    status, line = fail("regression", "--output", str(tmp_path / "file" / "models"))
    assert status == 1
    assert str(tmp_path / "file") in line
