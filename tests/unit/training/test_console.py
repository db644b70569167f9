import io
import os
import sys
from contextlib import redirect_stdout, suppress
from unittest.mock import Mock

import pytest

from training import console
from training.console import Line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    times = [0.0]
    monkeypatch.setattr("training.console.time.monotonic", lambda: times[-1])
    return times


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (1.2, "1 s"), (89, "89 s"), (300, "5 min"), (5_340, "89 min"), (9_000, "2.5 h")]
)
def test_duration(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text


def test_short_stages_are_few_lines(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Line() as line:
        for number in range(100):
            clock.append(number / 20)
            line.keep(f"epoch {number}")
        line.keep("the last", always=True)
    assert capsys.readouterr().out.splitlines() == ["epoch 0", "epoch 40", "epoch 80", "the last"]


def test_off_a_terminal_a_line_is_added_now_and_then(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Line() as line:
        for _ in line.counted(range(100), "Photos"):
            clock.append(clock[-1] + 2)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [words[1] for words in lines] == ["3%,", "33%,", "63%,", "93%,"]
    assert [" ".join(words[3:5]) for words in lines] == ["3 min", "2 min", "74 s", "14 s"]


def test_on_a_terminal_a_line_is_written_over_and_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    with redirect_stdout(Terminal()) as terminal, suppress(KeyboardInterrupt), Line() as line:
        line.show("a text that is too long for it")
        line.show("short")
        line.keep("stays", always=True)
        for _ in line.counted(range(10), "Photos"):
            line.show("half")
            raise KeyboardInterrupt
    shown = ["a text that is too ", "short".ljust(19), " " * 19, "stays\n"]
    assert terminal.getvalue().split("\r")[:5] == ["", *shown]
    # The error begins a line of its own.
    assert terminal.getvalue().endswith(" \n")


@pytest.mark.parametrize("level", ["2", "0"])
def test_noise_is_held_back(level: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
    noise = "I0000 00:00:1 9 port.cc:153] oneDNN custom operations are on. You may see\n"
    with suppress(KeyboardInterrupt), console.quiet():
        os.write(2, f"{noise}a warning\n".encode())
        raise KeyboardInterrupt
    assert capfd.readouterr().err == ("a warning\n" if level == "2" else f"{noise}a warning\n")
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow := Mock())
    console.load_tensorflow()
    assert tensorflow.get_logger().setLevel.called is (level == "2")
