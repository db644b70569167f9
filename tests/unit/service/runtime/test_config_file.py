import os
from pathlib import Path

import pytest

from service.runtime.config_file import ConfigFile, InvalidFile
from service.runtime.shared_memory import MIN_CAPACITY, SharedMemory
from service.runtime.shared_values import Value, Values


def length(written: bytes, path: "os.PathLike[str]") -> int:
    if b"?" in written:
        raise InvalidFile(f"{path}: what is ?")
    return len(written)


def write(path: Path, text: str) -> None:
    """Anew, so that it counts as changed however quickly one follows the other."""
    (draft := path.with_suffix(".draft")).write_text(text)
    draft.rename(path)


def test_changes_are_read(tmp_path: Path) -> None:
    file = ConfigFile(path := tmp_path / "file.toml", length, -1)
    assert file.content == -1
    assert file.read()
    assert (file.content, file.read()) == (0, False)
    write(path, "abc")
    assert file.read()
    assert (file.content, file.read()) == (3, False)
    path.unlink()
    assert file.read()
    assert (file.content, file.error) == (0, "")


def test_an_invalid_file_keeps_the_content(tmp_path: Path) -> None:
    file = ConfigFile(path := tmp_path / "file.toml", length, -1, must_exist=True)
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


def test_a_new_worker_shares_the_last_valid_content(tmp_path: Path) -> None:
    path, kept = tmp_path / "file.toml", Value(Values(SharedMemory()), b"file.toml")
    write(path, "abc")
    ConfigFile(path, length, -1, kept=kept).read()
    write(path, "?")
    beginning = ConfigFile(path, length, -1, kept=kept)
    assert beginning.read()
    assert (beginning.content, beginning.error) == (3, f"{path}: what is ?")


def test_a_content_too_large_to_share_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = Values(SharedMemory(MIN_CAPACITY))
    file = ConfigFile(path := tmp_path / "file.toml", length, -1, kept=Value(values, b"file.toml"))
    write(path, "x" * MIN_CAPACITY)
    assert file.read()
    assert (file.content, file.read()) == (MIN_CAPACITY, False)
    assert "the memory that worker processes share is full" in caplog.text


def test_a_failed_read_is_repeated(tmp_path: Path) -> None:
    errors = [RuntimeError("in the middle of it")]

    def decode(written: bytes, _path: "os.PathLike[str]") -> int:
        if errors:
            raise errors.pop()
        return len(written)

    file = ConfigFile(path := tmp_path / "file.toml", decode, -1)
    write(path, "abc")
    with pytest.raises(RuntimeError):
        file.read()
    assert file.read()
    assert file.content == 3


def test_an_unreadable_file_fails_the_check(tmp_path: Path) -> None:
    (path := tmp_path / "file.toml").mkdir()
    with pytest.raises(InvalidFile, match=r"file\.toml cannot be read: Is a directory"):
        ConfigFile(path, length, -1).check()
