"""`python -m training` up to where TensorFlow would start."""

import dataclasses
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import training.__main__ as cli
from training.__main__ import COMMANDS, MODELS, main

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, kw_only=True)
class HatsConfig:
    folder: Path = field(metadata={"positional": True, "help": "where the hats are"})
    name: str = field(metadata={"help": "what they are called"})
    brim: str = field(default="wide", metadata={"help": "the part that shades", "choices": ("wide", "narrow")})
    worn: bool = field(default=False, metadata={"help": "whether one wears them"})
    band: tuple[Path, ...] = field(default=(), metadata={"help": "what is around them"})


@pytest.fixture
def hats(monkeypatch: pytest.MonkeyPatch) -> list[HatsConfig]:
    """What a command with flags of every kind is run with."""
    runs: list[HatsConfig] = []
    module: Any = ModuleType("hats")
    module.NAME, module.Config, module.run, module.__doc__ = "hats", HatsConfig, runs.append, "Hats.\n\nResult: hats."
    monkeypatch.setattr(cli, "COMMANDS", (module,))
    return runs


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    return one_line(capsys)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.endswith("\n")
    return error.strip()


def help_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_names_every_model_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(["--help"], capsys)
    assert {"regression", "clothing", "activity", "photos", "folder", "exercises", "report", "replay"} == {
        each.NAME for each in MODELS + COMMANDS
    }
    assert all(f" {each.NAME} " in text for each in MODELS + COMMANDS)
    assert text.count("Result: ") == text.count("Cost: ") == len(MODELS + COMMANDS)


@pytest.mark.parametrize("module", MODELS + COMMANDS, ids=lambda module: module.NAME)
def test_help_states_each_flag_and_default(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of([module.NAME, "--help"], capsys)
    for each in dataclasses.fields(module.Config):
        name = each.name.upper() if each.metadata.get("positional") else f"--{each.name.replace('_', '-')}"
        assert re.search(rf"[ \[]{re.escape(name)}[ ,\]]", text)
        if each.default is not dataclasses.MISSING:
            assert f"(default: {each.default})" in text
    assert "Result: " in text
    assert "Cost: " in text


def test_flag_of_each_kind(hats: list[HatsConfig], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hats", "shelf", "--name", "bowler", "--brim", "narrow", "--worn"]) == 0
    assert main(["hats", "--no-worn", "--name", "bowler", "shelf"]) == 0
    assert main(["hats", "shelf", "--name", "bowler", "--band", "silk", "wool"]) == 0
    assert hats == [
        HatsConfig(folder=Path("shelf"), name="bowler", brim="narrow", worn=True),
        HatsConfig(folder=Path("shelf"), name="bowler"),
        HatsConfig(folder=Path("shelf"), name="bowler", band=(Path("silk"), Path("wool"))),
    ]
    text = help_of(["hats", "--help"], capsys)
    assert "--worn, --no-worn whether one wears them (default: False)" in text
    assert "the part that shades (default: wide)" in text
    assert "--name STR what they are called" in text
    assert text.count("(default: ") == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--name", "bowler"], "the following arguments are required: FOLDER"),
        (["shelf"], "the following arguments are required: --name"),
        (["shelf", "--name", "bowler", "--brim", "none"], "argument --brim: invalid choice: 'none'"),
    ],
)
@pytest.mark.usefixtures("hats")
def test_required_and_invalid_values_are_errors(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refusal(["hats", *arguments], capsys)


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
        (["activity", "--batch-size", "-3"], "batch_size is -3, expected 1 or more"),
        (["regression", "--learning-rate", "0"], "learning_rate is 0.0, expected a number above 0"),
        (["regression", "--learning-rate", "nan"], "learning_rate is nan, expected a number above 0"),
        (["regression", "--seed", "-1"], "seed is -1, expected 0 to 4294967295"),
        (["regression", "--output", __file__], "which is a file, expected a folder"),
        (["regression", "--speed", "9"], "unrecognized arguments: --speed 9"),
        (["exercises", "--only", "units-128,hats"], "only has 'hats', expected of units-128, units-512"),
        (["exercises", "--seed", "-1"], "seed is -1, expected 0 to 4294967295"),
        (["exercises", "--output", __file__], "which is a file, expected a folder"),
    ],
)
def test_invalid_value_is_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(arguments, capsys)
    assert says in line
    assert line.startswith("python -m training")


def test_missing_data_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FASHION_MNIST_DIR", str(tmp_path / "nowhere"))
    assert main(["clothing", "--output", str(tmp_path)]) == 1
    line = one_line(capsys)
    assert str(tmp_path / "nowhere") in line
    assert "apt-get install dataset-fashion-mnist" in line


def test_output_that_cannot_be_created_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["regression", "--output", str(tmp_path / "file" / "models")]) == 1
    assert str(tmp_path / "file") in one_line(capsys)


def test_missing_tensorflow_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "keras", None)
    assert main(["regression", "--output", str(tmp_path)]) == 1
    assert "pip install --no-deps -r requirements/train.txt" in one_line(capsys)


def test_ctrl_c_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(config: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.models.regression.run", interrupted)
    assert main(["regression", "--output", str(tmp_path)]) == 130
    assert "nothing was exported" in one_line(capsys)
