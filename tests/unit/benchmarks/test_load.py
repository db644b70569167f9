import os
import shutil
from pathlib import Path

import pytest

from benchmarks.load import find_wrk, parse
from benchmarks.processes import LeftOut, arguments, held_to, last_words, python
from benchmarks.servers import Server

PRINTED = """Running 4s test @ http://127.0.0.1:8501/
  1 threads and 16 connections
requests=12345 seconds=4.002000 p50=812.0 p99=3456.5 failed=0
"""


def test_the_last_line_that_wrk_printed_is_the_figures() -> None:
    load = parse(PRINTED, "http://127.0.0.1:8501/", cpu_seconds=0.5)
    assert (load.requests, load.seconds, load.p50, load.p99, load.cpu_seconds) == (12345, 4.002, 812.0, 3456.5, 0.5)


def test_a_loop_in_process_says_its_own_cpu_time() -> None:
    assert parse("requests=10 seconds=1.0 p50=5.0 p99=6.0 cpu=0.75 failed=0", "in process", 0.0).cpu_seconds == 0.75


def test_a_single_failed_request_voids_a_measurement() -> None:
    with pytest.raises(RuntimeError, match="1 requests of 12345 failed"):
        parse(PRINTED.replace("failed=0", "failed=1"), "url", 0.5)


def test_a_run_in_which_nothing_was_answered_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match=r"not one request was answered in 4\.0 s"):
        parse(PRINTED.replace("requests=12345", "requests=0"), "url", 0.5)


@pytest.mark.parametrize("printed", ["", "unable to connect to 127.0.0.1:1 Connection refused"])
def test_output_without_figures_is_shown_as_it_is(printed: str) -> None:
    with pytest.raises(RuntimeError, match="no figures in what was printed") as error:
        parse(printed, "url", 0.5)
    assert printed in str(error.value)


def test_without_wrk_a_sentence_says_where_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(SystemExit, match="apt-get install wrk"):
        find_wrk()


def test_what_is_started_on_a_core_leaves_this_process_where_it_was() -> None:
    before = os.sched_getaffinity(0)
    with held_to({min(before)}):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before


def test_a_server_whose_environment_is_missing_is_left_out_with_the_way_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LeftOut, match=r"make \.venv/bench-nowhere/installed"):
        python(Server("nowhere", (), {}, environment="bench-nowhere"))


def test_port_and_workers_reach_the_command_and_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".venv" / "dev").mkdir(parents=True)
    (tmp_path / ".venv" / "dev" / "installed").touch()
    server = Server("one", ("-m", "one", "--port={port}"), {}, variables={"WORKERS": "{workers}"})
    command, variables = arguments(server, port=8501, workers=2)
    assert command == [".venv/dev/bin/python", "-m", "one", "--port=8501"]
    assert variables["WORKERS"] == "2"


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        (
            "Traceback ...\nModuleNotFoundError: No module named 'uvloop'\n12:00 ERROR Worker failed to boot.",
            "'uvloop'",
        ),
        ("starting\nport 8501 is taken.\n", "port 8501 is taken"),
        ("", "it said nothing"),
    ],
)
def test_the_reason_why_a_server_did_not_start_is_its_last_error_or_last_line(printed: str, words: str) -> None:
    assert last_words(printed).endswith(words)
