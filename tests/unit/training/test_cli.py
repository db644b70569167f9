"""`python -m training` up to where TensorFlow would start."""

import subprocess
import sys
from pathlib import Path

import pytest

from training.__main__ import main

ROOT = Path(__file__).parents[3]


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


def test_help_names_every_model_with_its_result_and_cost(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(["--help"], capsys)
    assert "regression" in text
    assert "clothing" in text
    assert "activity" in text
    assert text.count("Result: ") == text.count("Cost: ") == 3


@pytest.mark.parametrize(
    ("model", "epochs", "batch_size", "learning_rate"),
    [("regression", 200, 6, 0.1), ("clothing", 12, 128, 0.002), ("activity", 12, 32, 0.002)],
)
def test_help_states_each_default(
    model: str, epochs: int, batch_size: int, learning_rate: float, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of([model, "--help"], capsys)
    assert f"--epochs INT passes over the training data (default: {epochs})" in text
    assert f"--batch-size INT examples per step (default: {batch_size})" in text
    assert f"(default: {learning_rate})" in text
    assert "--seed INT" in text
    assert "(default: 1)" in text
    assert "--output FOLDER" in text
    assert "(default: models)" in text
    assert "Result: " in text
    assert "Cost: " in text


def test_help_needs_no_tensorflow() -> None:
    code = "import sys, training.__main__ as m\ntry: m.main(['clothing', '--help'])\nexcept SystemExit: pass\n"
    loaded = "print(sorted({'tensorflow', 'keras', 'matplotlib'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code + loaded], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "the following arguments are required: MODEL"),
        (["hats"], "invalid choice: 'hats'"),
        (["clothing", "--epochs", "0"], "epochs is 0, expected 1 or more"),
        (["clothing", "--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
        (["clothing", "--batch-size", "-3"], "batch_size is -3, expected 1 or more"),
        (["regression", "--learning-rate", "0"], "learning_rate is 0.0, expected a number above 0"),
        (["regression", "--learning-rate", "nan"], "learning_rate is nan, expected a number above 0"),
        (["regression", "--seed", "-1"], "seed is -1, expected 0 to 4294967295"),
        (["regression", "--output", __file__], "which is a file, expected a folder"),
        (["regression", "--speed", "9"], "unrecognized arguments: --speed 9"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_in_a_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(arguments, capsys)
    assert says in line
    assert line.startswith("python -m training")


def test_missing_data_is_a_line_that_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FASHION_MNIST_DIR", str(tmp_path / "nowhere"))
    assert main(["clothing", "--output", str(tmp_path)]) == 1
    line = one_line(capsys)
    assert str(tmp_path / "nowhere") in line
    assert "apt-get install dataset-fashion-mnist" in line


def test_an_output_that_cannot_be_made_is_a_line_before_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["regression", "--output", str(tmp_path / "file" / "models")]) == 1
    assert str(tmp_path / "file") in one_line(capsys)


def test_missing_tensorflow_is_a_line_that_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "keras", None)
    assert main(["regression", "--output", str(tmp_path)]) == 1
    assert "pip install --no-deps -r requirements/train.txt" in one_line(capsys)


def test_ctrl_c_is_a_line_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(config: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.regression.run", interrupted)
    assert main(["regression", "--output", str(tmp_path)]) == 130
    assert "nothing was exported" in one_line(capsys)
