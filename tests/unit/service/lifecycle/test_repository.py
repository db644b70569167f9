import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from service.errors import NotFound
from service.lifecycle.repository import MAX_FOLDERS, Repository, model_name_fault, version_number
from service.runtime.shared_memory import SharedMemory
from tests.unit.service.lifecycle.worker import board_of


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("7", 7), ("0007", 7), ("9223372036854775807", 2**63 - 1), ("0" * 300 + "12", 12)],
)
def test_version_number(text: str, number: int) -> None:
    assert version_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", " 1", "1 ", "1_0", "1e3", "0x1", "٣", "²", "9223372036854775808", "9" * 5000]
)
def test_no_version_number(text: str) -> None:
    assert version_number(text) is None


@pytest.mark.parametrize(
    "name",
    ["stats", "config", "100%", "a%2Fb", " ", "no\u00a0break", "größe", "日本", "می\u200cخواهم", 'quo"te', "a\\b"],
)
def test_valid_model_name(name: str) -> None:
    assert model_name_fault(name) is None


@pytest.mark.parametrize("name", [".1", "a:b", "line\nbreak", "null\0", "\udcff", "\u202eback", "\u2028"])
def test_invalid_model_name(name: str) -> None:
    assert model_name_fault(name) is not None


def add(root: Path, model: str, version: str, content: bytes = b"graph") -> Path:
    folder = root / model / version
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(content)
    return folder


def names(root: Path, only_model: str = "") -> list[tuple[str, int]]:
    return sorted(Repository(root, only_model).versions())


def test_versions(tmp_path: Path) -> None:
    for version in ("1", "2", "10"):
        add(tmp_path, "clothing", version)
    folder = add(tmp_path, "regression", "7")
    assert names(tmp_path) == [("clothing", 1), ("clothing", 2), ("clothing", 10), ("regression", 7)]
    assert Repository(tmp_path).versions()["regression", 7] == folder


@pytest.mark.parametrize("version", ["v1", "-1", ".staging", "٣"])
def test_folder_without_a_number_is_no_version(tmp_path: Path, version: str) -> None:
    add(tmp_path, "model", version)
    assert names(tmp_path) == []


def test_export_under_way_is_no_version(tmp_path: Path) -> None:
    add(tmp_path, ".staging", "1")
    add(tmp_path, "model", ".1.tmp")
    assert names(tmp_path) == []


@pytest.mark.parametrize("model", ["a:b", "\udcff", "line\nbreak"])
def test_invalid_model_name_is_logged_once(tmp_path: Path, model: str, caplog: pytest.LogCaptureFixture) -> None:
    add(tmp_path, model, "1")
    add(tmp_path, "good one", "1")
    repository = Repository(tmp_path)
    for _ in range(2):
        assert sorted(repository.versions()) == [("good one", 1)]
    (line,) = caplog.messages
    assert line.startswith(f"{model!a} is not served: its name has a c")


def test_version_above_int64_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for version in ("20260312103015123456", "9223372036854775808", "9223372036854775807", "0007"):
        add(tmp_path, "model", version)
    repository = Repository(tmp_path)
    for _ in range(2):
        assert sorted(repository.versions()) == [("model", 7), ("model", 2**63 - 1)]
    assert sorted(caplog.messages) == [
        f"'model/{version}' is not served: a version is a number of at most 9223372036854775807"
        for version in ("20260312103015123456", "9223372036854775808")
    ]


def test_harmless_entries_are_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    add(tmp_path, ".staging", "1")
    (add(tmp_path, "model", "3").parent / "latest").symlink_to("3")
    (tmp_path / "model" / "notes").mkdir()
    (tmp_path / "notes: read me.txt").write_text("no folder")
    assert (names(tmp_path), caplog.messages) == ([("model", 3)], [])


def test_files_are_no_versions(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("models")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "1").write_text("no folder")
    assert names(tmp_path) == []


def test_leading_zeros_are_allowed(tmp_path: Path) -> None:
    add(tmp_path, "model", "007")
    assert names(tmp_path) == [("model", 7)]


def test_empty_version_is_a_version(tmp_path: Path) -> None:
    (tmp_path / "model" / "1").mkdir(parents=True)
    assert names(tmp_path) == [("model", 1)]


def test_only_model(tmp_path: Path) -> None:
    add(tmp_path, "clothing", "1")
    add(tmp_path, "regression", "1")
    assert names(tmp_path, "regression") == [("regression", 1)]
    assert names(tmp_path, "other") == []


def test_link_to_a_version_is_a_version(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = add(tmp_path_factory.mktemp("elsewhere"), "model", "1")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "3").symlink_to(elsewhere)
    assert names(tmp_path) == [("model", 3)]


def test_dangling_link_is_no_version(tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (add(tmp_path, "model", "1") / "dangling").symlink_to(tmp_path / "nowhere")
    assert names(tmp_path) == [("model", 1)]


@pytest.mark.parametrize("place", ["loop", "broken/loop", "broken/1", "broken/1/loop"])
def test_link_to_itself_hides_no_other_model(tmp_path: Path, place: str) -> None:
    add(tmp_path, "model", "1")
    link = tmp_path / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(link)
    assert ("model", 1) in names(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_model_hides_no_other_model(tmp_path: Path) -> None:
    add(tmp_path, "model", "1")
    secret = add(tmp_path, "secret", "1").parent
    secret.chmod(0)
    try:
        assert names(tmp_path) == [("model", 1)]
    finally:
        secret.chmod(0o755)


def test_unreadable_model_keeps_its_versions(
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


def test_missing_root_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Repository(tmp_path / "nowhere").versions()


def test_path(tmp_path: Path) -> None:
    folder = add(tmp_path, "model", "1")
    repository = Repository(tmp_path)
    assert repository.path("model", 1) == folder
    shutil.rmtree(folder)
    with pytest.raises(NotFound, match="model version 1 is no longer on disk"):
        repository.path("model", 1)


def put(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"graph")


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (["saved_model.pb"], "nothing is served: saved_model.pb lies in the models folder itself, so it is a version;"),
        (["1/saved_model.pb"], "nothing is served: 1/saved_model.pb lies in the models folder, so it is a model,"),
        (["7/saved_model.pbtxt"], "nothing is served: 7/saved_model.pbtxt lies in the models folder"),
        (
            ["models/x/1/saved_model.pb"],
            "'models' is not served: it holds models of its own (models/x/1/saved_model.pb)",
        ),
        (["x/saved_model.pb"], "'x' is not served: saved_model.pb lies in it, and not in a folder of a version;"),
        (["x/v1/saved_model.pb"], "'x/v1' is not served: saved_model.pb lies in it, but a version is a number;"),
        (
            ["x/latest/saved_model.cpb"],
            "'x/latest' is not served: saved_model.cpb lies in it, but a version is a number",
        ),
        (
            ["x.keras"],
            "'x.keras' is not served: it is a file of Keras; expected a SavedModel: model.export(\"<models>/x/1\")",
        ),
        (["x.H5"], "'x.H5' is not served: it is a file of Keras;"),
        (["x/model.keras"], "'x/model.keras' is not served: it is a file of Keras;"),
        (["x/model.tflite"], "'x/model.tflite' is not served: it is a LiteRT model alone;"),
    ],
)
def test_misplaced_model_is_logged_once_with_advice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, files: list[str], sentence: str
) -> None:
    put(tmp_path, *files)
    repository = Repository(tmp_path)
    for _ in range(2):
        assert repository.versions() == {}
    (line,) = caplog.messages
    assert line.startswith(sentence)
    assert "expected" in line


@pytest.mark.parametrize(
    "files",
    [
        ["x/1/saved_model.pb", "x/model.keras", "x/notes/read.me"],
        [".staging/saved_model.pb", "x/.tmp/saved_model.pb"],
        ["README.md", "x/README.md"],
        ["123/1/saved_model.pb"],
    ],
)
def test_what_is_not_misplaced(tmp_path: Path, caplog: pytest.LogCaptureFixture, files: list[str]) -> None:
    put(tmp_path, *files)
    Repository(tmp_path).versions()
    assert caplog.messages == []


def test_only_model_hides_misplaced_models(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, "x/1/saved_model.pb", "y/saved_model.pb")
    Repository(tmp_path, "x").versions()
    assert caplog.messages == []


def test_missing_only_model_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, "y/1/saved_model.pb")
    Repository(tmp_path, "x").versions()
    assert caplog.messages == ["'x' is not served: SERVING_MODEL_NAME asks for it, and there is no x/<version>"]


def test_number_of_folders_is_limited(tmp_path: Path) -> None:
    for number in range(MAX_FOLDERS + 50):
        (tmp_path / "home" / f"folder {number}").mkdir(parents=True)
    put(tmp_path, "home/z/1/saved_model.pb", "models/x/1/saved_model.pb")
    repository = Repository(tmp_path)
    repository.versions()
    assert repository.skipped == {}


def test_worker_processes_log_once_together(
    tmp_path: Path, memory: SharedMemory, caplog: pytest.LogCaptureFixture
) -> None:
    (models := tmp_path / "models").mkdir()
    put(models, "x/saved_model.pb")
    for slot in (1, 2):
        Repository(models, is_first=board_of(memory, slot).is_first).versions()
    assert len(caplog.messages) == 1
