import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from service.lifecycle.repository import Repository


def add(root: Path, model: str, version: str, content: bytes = b"graph") -> Path:
    folder = root / model / version
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(content)
    return folder


def names(root: Path, only_model: str = "") -> list[tuple[str, int]]:
    return sorted(Repository(root, only_model).versions())


def test_versions_are_folders_with_numbers_in_folders_with_names(tmp_path: Path) -> None:
    for version in ("1", "2", "10"):
        add(tmp_path, "clothing", version)
    folder = add(tmp_path, "regression", "7")
    assert names(tmp_path) == [("clothing", 1), ("clothing", 2), ("clothing", 10), ("regression", 7)]
    assert Repository(tmp_path).versions()["regression", 7] == folder


@pytest.mark.parametrize("version", ["v1", "latest", "1.5", "-1", "1a", ".staging", "٣", "²", " 1"])
def test_a_folder_that_is_no_number_is_no_version(tmp_path: Path, version: str) -> None:
    add(tmp_path, "model", version)
    assert names(tmp_path) == []


def test_an_export_under_way_does_not_count(tmp_path: Path) -> None:
    add(tmp_path, ".staging", "1")
    add(tmp_path, "model", ".1.tmp")
    assert names(tmp_path) == []


@pytest.mark.parametrize("model", ["a:b", "\udcff", "line\nbreak"])
def test_a_model_that_nobody_can_name_is_not_served_and_logged_once(
    tmp_path: Path, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    add(tmp_path, model, "1")
    add(tmp_path, "good one", "1")
    repository = Repository(tmp_path)
    for _ in range(2):
        assert sorted(repository.versions()) == [("good one", 1)]
    (line,) = caplog.messages
    assert line.startswith(f"{model!a} is not served: its name has a c")


def test_a_version_above_int64_is_not_served_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for version in ("20260312103015123456", "9223372036854775808", "9223372036854775807", "0007"):
        add(tmp_path, "model", version)
    repository = Repository(tmp_path)
    for _ in range(2):
        assert sorted(repository.versions()) == [("model", 7), ("model", 2**63 - 1)]
    assert sorted(caplog.messages) == [
        f"'model/{version}' is not served: a version is a number of at most 9223372036854775807"
        for version in ("20260312103015123456", "9223372036854775808")
    ]


def test_what_is_passed_over_without_a_word_is_logged_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    add(tmp_path, ".staging", "1")
    (add(tmp_path, "model", "3").parent / "latest").symlink_to("3")
    (tmp_path / "model" / "notes").mkdir()
    (tmp_path / "notes: read me.txt").write_text("no folder")
    assert (names(tmp_path), caplog.messages) == ([("model", 3)], [])


def test_files_among_the_folders_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("models")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "1").write_text("no folder")
    assert names(tmp_path) == []


def test_leading_zeros_make_no_other_version(tmp_path: Path) -> None:
    add(tmp_path, "model", "007")
    assert names(tmp_path) == [("model", 7)]


def test_an_empty_version_is_on_disk_too(tmp_path: Path) -> None:
    (tmp_path / "model" / "1").mkdir(parents=True)
    assert names(tmp_path) == [("model", 1)]


def test_one_model_alone_can_be_asked_for(tmp_path: Path) -> None:
    add(tmp_path, "clothing", "1")
    add(tmp_path, "regression", "1")
    assert names(tmp_path, "regression") == [("regression", 1)]
    assert names(tmp_path, "other") == []


def test_a_linked_version_is_a_version(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = add(tmp_path_factory.mktemp("elsewhere"), "model", "1")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "3").symlink_to(elsewhere)
    assert names(tmp_path) == [("model", 3)]


def test_a_dangling_link_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (add(tmp_path, "model", "1") / "dangling").symlink_to(tmp_path / "nowhere")
    assert names(tmp_path) == [("model", 1)]


@pytest.mark.parametrize("place", ["loop", "broken/loop", "broken/1", "broken/1/loop"])
def test_a_link_to_itself_does_not_hide_the_other_models(tmp_path: Path, place: str) -> None:
    add(tmp_path, "model", "1")
    link = tmp_path / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(link)
    assert ("model", 1) in names(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_model_that_may_not_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    add(tmp_path, "model", "1")
    secret = add(tmp_path, "secret", "1").parent
    secret.chmod(0)
    try:
        assert names(tmp_path) == [("model", 1)]
    finally:
        secret.chmod(0o755)


def test_a_model_that_cannot_be_read_for_a_while_keeps_its_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def scandir(path: Path | str) -> Any:
        if Path(path).name == "remote":
            raise OSError(errno.ESTALE, "Stale file handle")
        return really(path)

    really = os.scandir
    add(tmp_path, "remote", "1")
    repository = Repository(tmp_path)
    repository.versions()
    add(tmp_path, "model", "1")
    with monkeypatch.context() as down:
        down.setattr(os, "scandir", scandir)
        for _ in range(2):
            assert sorted(repository.versions()) == [("model", 1), ("remote", 1)]
    assert caplog.text.count("remote cannot be read (what is loaded of it goes on serving): Stale file handle") == 1
    shutil.rmtree(tmp_path / "remote")
    assert sorted(repository.versions()) == [("model", 1)]


def test_a_root_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Repository(tmp_path / "nowhere").versions()
