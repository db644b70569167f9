import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from service.runtime.config_file import ConfigFile, InvalidFile
from service.runtime.shared_memory import MIN_CAPACITY, SharedMemory
from service.runtime.shared_values import Value, Values


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.toml"


def length(written: bytes, path: "os.PathLike[str]") -> int:
    if b"?" in written:
        raise InvalidFile(f"{path}: what is ?")
    return len(written)


def write(path: Path, text: str) -> None:
    """Anew, so that it counts as changed however quickly one follows the other."""
    (draft := path.with_suffix(".draft")).write_text(text)
    draft.rename(path)


def test_changes_are_read(path: Path) -> None:
    file = ConfigFile(path, length, -1)
    assert file.content == -1
    for text, content in (("", 0), ("abc", 3)):
        write(path, text)
        assert file.read()
        assert (file.content, file.read()) == (content, False)
    path.unlink()
    assert file.read()
    assert (file.content, file.error) == (0, "")


def test_invalid_file_keeps_the_content(path: Path) -> None:
    file = ConfigFile(path, length, -1, must_exist=True)
    write(path, "abc")
    file.read()
    write(path, "?")
    assert file.read()
    assert (file.content, file.error) == (3, f"{path}: what is ?")
    path.unlink()
    assert file.read()
    assert (file.content, file.error) == (3, f"{path}: there is no such file")
    write(path, "")
    assert file.read()
    assert (file.content, file.error) == (0, "")


def test_new_worker_shares_the_last_valid_content(path: Path) -> None:
    kept = Value(Values(SharedMemory()), b"file.toml")
    write(path, "abc")
    ConfigFile(path, length, -1, kept=kept).read()
    write(path, "?")
    beginning = ConfigFile(path, length, -1, kept=kept)
    assert beginning.read()
    assert (beginning.content, beginning.error) == (3, f"{path}: what is ?")


def test_content_too_large_to_share_is_used(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = ConfigFile(path, length, -1, kept=Value(Values(SharedMemory(MIN_CAPACITY)), b"file.toml"))
    write(path, "x" * MIN_CAPACITY)
    assert file.read()
    assert (file.content, file.read()) == (MIN_CAPACITY, False)
    assert "the memory that worker processes share is full" in caplog.text


def test_failed_read_is_repeated(path: Path) -> None:
    file = ConfigFile(path, Mock(side_effect=[RuntimeError, 3]), -1)
    write(path, "abc")
    with pytest.raises(RuntimeError):
        file.read()
    assert file.read()
    assert file.content == 3


def test_unreadable_file_fails_the_check(path: Path) -> None:
    path.mkdir()
    with pytest.raises(InvalidFile, match=r"file\.toml cannot be read: Is a directory"):
        ConfigFile(path, length, -1).check()
