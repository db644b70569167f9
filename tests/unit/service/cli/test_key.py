import hashlib
from datetime import date
from pathlib import Path

import pytest

from service.__main__ import main
from service.security.api_keys import decode


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["python -m service", "key", *arguments])
    main()


def test_printed_entry_admits_the_key(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "--name", "alice", "--scope", "admin", "--expires", "2027-01-01")
    before, _, table = capsys.readouterr().out.partition("For the file:")
    (key,) = (line for line in before.splitlines() if line.startswith("fr_"))
    assert key not in table
    ((name, entry),) = decode(table.encode(), Path("keys.toml")).items()
    assert (name, entry.scope, entry.expires) == ("alice", "admin", date(2027, 1, 1))
    assert entry.sha256 == hashlib.sha256(key.encode()).hexdigest()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--scope predict", "required: --name"),
        ("--name a.b --scope predict", "--name='a.b': expected at most 64 letters, digits, - and _"),
        ("--name alice --scope root", "invalid choice: 'root'"),
        ("--name alice --scope predict --expires soon", "'soon': expected a day as YYYY-MM-DD"),
    ],
)
def test_invalid_flag_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: str, words: str
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, *arguments.split())
    assert words in capsys.readouterr().err
