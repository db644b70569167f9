"""`python -m service predict`, as it is called."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.server import SHIPPED, Server

SAMPLES = SHIPPED / "clothing/2/assets.extra/samples"
RECORDING = SHIPPED / "activity/1/assets.extra/samples/03.csv"


def predict(*arguments: object, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "service", "predict", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=120)


@pytest.fixture(params=["service", "folder"])
def place(request: pytest.FixtureRequest, server: Server) -> "list[str]":
    """Where the model is asked: its name's prefix, and the flags."""
    if request.param == "folder":
        return [f"{SHIPPED}/"]
    return ["", "--url", f"http://127.0.0.1:{server.port}"]


def test_numbers_are_answered_in_a_table(place: list[str]) -> None:
    done = predict(f"{place[0]}regression", "10", "0", *place[1:])
    assert (done.returncode, done.stdout) == (0, "10  31\n0   1\n")


def test_a_folder_of_pictures_is_answered_in_the_order_of_its_files(place: list[str]) -> None:
    done = predict(f"{place[0]}clothing", SAMPLES, "--top-k", 1, *place[1:])
    lines = done.stdout.splitlines()
    assert (done.returncode, len(lines)) == (0, 20)
    assert lines[6].split()[1] == "Dress"
    assert [line.split()[0] for line in lines] == sorted(line.split()[0] for line in lines)


def test_a_recording_is_one_row(place: list[str]) -> None:
    done = predict(f"{place[0]}activity", RECORDING, *place[1:])
    assert (done.returncode, done.stdout.split()[1]) == (0, "Running")


def test_json_is_for_scripts_and_one_bad_input_shows_in_the_exit_code(place: list[str], tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG nothing")
    done = predict(
        f"{place[0]}clothing", SAMPLES / "07.png", tmp_path / "bad.png", "--version", 1, "--json", *place[1:]
    )
    good, bad = (json.loads(line) for line in done.stdout.splitlines())
    assert done.returncode == 1
    assert good["results"][0][0][0] == "Dress"
    assert "truncated or damaged" in bad["error"]


def test_a_mistake_of_the_models_kind_is_told_once_with_the_services_sentence(place: list[str]) -> None:
    done = predict(f"{place[0]}regression", '["ten"]', *place[1:])
    assert done.returncode == 1
    assert done.stderr.count("error:") == 1
    assert "expected a number" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["hats", "1"], "Servable not found"),
        (["regression", "1", "--version", "7"], "Servable not found"),
        (["regression", "1", "--signature", "none"], "no signature 'none'; it has 'serving_default'"),
    ],
)
def test_a_model_that_is_not_there_is_told_and_has_an_exit_code_of_its_own(
    server: Server, arguments: list[str], words: str
) -> None:
    done = predict(*arguments, "--url", f"http://127.0.0.1:{server.port}")
    assert (done.returncode, words in done.stderr) == (3, True)


def test_nobody_answering_and_a_folder_without_models_are_told(tmp_path: Path) -> None:
    done = predict("regression", "1", "--url", "http://127.0.0.1:9")
    assert (done.returncode, "does not answer" in done.stderr) == (3, True)
    done = predict(tmp_path / "nothing", "1")
    assert (done.returncode, "no such folder" in done.stderr) == (3, True)
    (tmp_path / "empty").mkdir()
    done = predict(tmp_path / "empty", "1")
    assert (done.returncode, "no SavedModel there" in done.stderr) == (3, True)


def test_a_whole_request_comes_from_standard_input(place: list[str]) -> None:
    done = predict(f"{place[0]}regression", "-", *place[1:], stdin='{"instances": [10.0, 0.0]}')
    assert (done.returncode, done.stdout) == (0, "standard input[0]  31\nstandard input[1]  1\n")
