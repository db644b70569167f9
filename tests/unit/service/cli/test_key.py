import hashlib
import sys
from datetime import date
from pathlib import Path

import pytest

from service.__main__ import main
from service.security.api_keys import decode


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "Run":
    return Run(monkeypatch, capsys)


class Run:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str) -> str:
        self._monkeypatch.setattr(sys, "argv", ["python -m service", "key", *arguments])
        main()
        return self._capsys.readouterr().out


def test_the_printed_entry_admits_the_key(run: Run) -> None:
    printed = run("--name", "alice", "--scope", "admin", "--expires", "2027-01-01")
    (key,) = (line for line in printed.splitlines() if line.startswith("fr_"))
    table = printed.partition("For the file:")[2]
    assert key not in table
    ((name, entry),) = decode(table.encode(), Path("keys.toml")).items()
    assert (name, entry.scope, entry.expires) == ("alice", "admin", date(2027, 1, 1))
    assert entry.sha256 == hashlib.sha256(key.encode()).hexdigest()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scope", "predict"], "required: --name"),
        (["--name", "alice"], "required: --scope"),
        (["--name", "a b", "--scope", "predict"], "--name='a b': expected at most 64 letters, digits, - and _"),
        (["--name", "alice", "--scope", "root"], "invalid choice: 'root'"),
        (["--name", "alice", "--scope", "predict", "--expires", "soon"], "'soon': expected a day as YYYY-MM-DD"),
    ],
)
def test_an_invalid_flag_is_named(
    run: Run, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    with pytest.raises(SystemExit):
        run(*arguments)
    assert words in capsys.readouterr().err
