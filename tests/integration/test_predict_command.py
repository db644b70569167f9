"""`python -m service predict`, with a running service and without one."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service.cli import predict
from tests.integration.server import SHIPPED, Server

SAMPLES = SHIPPED / "clothing/2/assets.extra/samples"


@pytest.fixture
def url(server: Server) -> list[str]:
    return ["--url", f"http://127.0.0.1:{server.port}"]


@pytest.fixture(params=["service", "folder"])
def at(request: pytest.FixtureRequest) -> list[str]:
    """What the name of a model begins with, and further arguments."""
    return ["", *request.getfixturevalue("url")] if request.param == "service" else [f"{SHIPPED}/"]


def test_numbers_are_answered_in_a_table(at: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main([f"{at[0]}regression", "10", "0", *at[1:]]) == 0
    assert capsys.readouterr().out == "10  31\n0   1\n"


def test_recording_is_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main([str(SHIPPED / "activity"), str(SHIPPED / "activity/1/assets.extra/samples/03.csv")]) == 0
    assert capsys.readouterr().out.split()[1] == "Running"


def test_bad_input_shows_in_the_json_and_in_the_exit_code(
    at: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG nothing")
    files = [str(SAMPLES / "07.png"), str(tmp_path / "bad.png")]
    assert predict.main([f"{at[0]}clothing", *files, "--version", "1", "--json", *at[1:]]) == 1
    good, bad = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert good["results"][0][0][0] == "Dress"
    assert "truncated or damaged" in bad["error"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["hats", "1"], "Servable not found"),
        (["regression", "1", "--version", "7"], "Servable not found"),
        (["regression", "1", "--signature", "none"], "no signature 'none'; it has 'serving_default'"),
        (["regression", "1", "--url", "http://127.0.0.1:9"], "does not answer"),
        (["/nothing", "1"], "no such folder"),
        (["/proc/self/fdinfo", "1"], "no model there"),
    ],
)
def test_missing_model_has_an_exit_code_of_its_own(
    url: list[str], arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict.main([*url, *arguments]) == 3
    assert words in capsys.readouterr().err


def test_whole_request_comes_from_standard_input(url: list[str]) -> None:
    command = [sys.executable, "-m", "service", "predict", "regression", "-", *url]
    done = subprocess.run(command, capture_output=True, input=b'{"instances": [10.0, 0.0]}')
    assert (done.returncode, done.stdout) == (0, b"standard input[0]  31\nstandard input[1]  1\n")


def test_reader_that_goes_away_is_no_error(url: list[str], tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(20_000.0))
    command = [sys.executable, "-m", "service", "predict", "regression", str(tmp_path / "x.npy"), *url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert (process.wait(), process.stderr.read()) == (-signal.SIGPIPE, b"")


def test_interrupt_leaves_no_traceback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        command = [sys.executable, "-m", "service", "predict", "m", "1", "--url", f"127.0.0.1:{busy.getsockname()[1]}"]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            with busy.accept()[0]:
                process.send_signal(signal.SIGINT)
                assert (process.wait(), process.stderr.read()) == (-signal.SIGINT, b"")
