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


@pytest.fixture
def url(server: Server) -> list[str]:
    return ["--url", f"http://127.0.0.1:{server.port}"]


@pytest.mark.parametrize("place", ["service", "folder"])
def test_numbers_are_answered_in_a_table(place: str, url: list[str]) -> None:
    done = predict("regression", 10, 0, *url) if place == "service" else predict(SHIPPED / "regression", 10, 0)
    assert (done.returncode, done.stdout) == (0, "10  31\n0   1\n")


def test_folder_of_pictures_is_answered_in_the_order_of_its_files(url: list[str]) -> None:
    done = predict("clothing", SAMPLES, "--top-k", 1, *url)
    lines = done.stdout.splitlines()
    assert (done.returncode, len(lines)) == (0, 20)
    assert lines[6].split()[1] == "Dress"
    assert [line.split()[0] for line in lines] == sorted(line.split()[0] for line in lines)


def test_recording_is_one_row() -> None:
    done = predict(SHIPPED / "activity", RECORDING)
    assert (done.returncode, done.stdout.split()[1]) == (0, "Running")


@pytest.mark.parametrize("place", ["service", "folder"])
def test_bad_input_shows_in_the_json_and_in_the_exit_code(place: str, url: list[str], tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG nothing")
    where = ("clothing", *url) if place == "service" else (SHIPPED / "clothing",)
    done = predict(where[0], SAMPLES / "07.png", tmp_path / "bad.png", "--version", 1, "--json", *where[1:])
    good, bad = (json.loads(line) for line in done.stdout.splitlines())
    assert done.returncode == 1
    assert good["results"][0][0][0] == "Dress"
    assert "truncated or damaged" in bad["error"]


@pytest.mark.parametrize("place", ["service", "folder"])
def test_mistake_in_a_row_is_told_once(place: str, url: list[str]) -> None:
    done = predict("regression", '["ten"]', *url) if place == "service" else predict(SHIPPED / "regression", '["ten"]')
    assert done.returncode == 1
    assert done.stderr.count("error:") == 1
    assert "expected a number" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["hats", "1"], "Servable not found"),
        (["regression", "1", "--version", "7"], "Servable not found"),
        (["regression", "1", "--signature", "none"], "no signature 'none'; it has 'serving_default'"),
        (["regression", "1", "--url", "http://127.0.0.1:9"], "does not answer"),
        (["/nothing", "1"], "no such folder"),
        (["/proc/self/fdinfo", "1"], "no SavedModel there"),
    ],
)
def test_missing_model_has_an_exit_code_of_its_own(url: list[str], arguments: list[str], words: str) -> None:
    done = predict(*url, *arguments) if arguments[0].isalpha() else predict(*arguments)
    assert (done.returncode, words in done.stderr) == (3, True)


def test_whole_request_comes_from_standard_input(url: list[str]) -> None:
    done = predict("regression", "-", *url, stdin='{"instances": [10.0, 0.0]}')
    assert (done.returncode, done.stdout) == (0, "standard input[0]  31\nstandard input[1]  1\n")
