import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from service.errors import NotFound
from service.lifecycle.repository import MAX_FOLDERS, Key, Places, Repository, model_name_fault, version_number
from service.runtime.shared_memory import SharedMemory
from tests.unit.service.lifecycle.worker import board_of

GRAPH = "saved_model.pb"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("0007", 7),
        ("9223372036854775807", 2**63 - 1),
        ("0" * 300 + "12", 12),
        *[(text, None) for text in ["", "-1", "+1", " 1", "1 ", "1_0", "1e3", "0x1", "٣", "²"]],
        ("9223372036854775808", None),
        ("9" * 5000, None),
    ],
)
def test_version_number(text: str, number: int | None) -> None:
    assert version_number(text) == number


VALID = ["100%", "a%2Fb", " ", "no\u00a0break", "日本", "می\u200cخواهم", 'quo"te', "a\\b"]
INVALID = [".1", "a:b", "line\nbreak", "null\0", "\udcff", "\u202eback", "\u2028"]


@pytest.mark.parametrize("name", VALID + INVALID)
def test_model_name(name: str) -> None:
    assert (model_name_fault(name) is None) is (name in VALID)


def put(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"graph")


def names(root: Path, only_model: str = "") -> list[Key]:
    return sorted(Repository(root, only_model).versions())


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([f"a/2/{GRAPH}", f"a/10/{GRAPH}", f"b/007/{GRAPH}"], [("a", 2), ("a", 10), ("b", 7)]),
        (["a/1/notes"], [("a", 1)]),
        ([f"123/1/{GRAPH}"], [("123", 1)]),
        ([f"a/1/{GRAPH}", "a/model.keras", "a/notes/read.me"], [("a", 1)]),
        ([f".staging/{GRAPH}", f".staging/1/{GRAPH}", f"a/.tmp/{GRAPH}", f"a/.1.tmp/{GRAPH}"], []),
        (["README.md", "a/README.md", "a/1", "notes: read me.txt"], []),
        ([f"a/٣/{GRAPH}"], []),
    ],
    ids=["several", "empty", "model that is a number", "beside others", "under way", "files", "other digits"],
)
def test_versions(tmp_path: Path, caplog: pytest.LogCaptureFixture, files: list[str], expected: list[Key]) -> None:
    put(tmp_path, *files)
    assert names(tmp_path) == expected
    assert caplog.messages == []


def test_link_to_a_version_is_a_version(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, f".elsewhere/1/{GRAPH}", "a/notes")
    (tmp_path / "a/3").symlink_to(tmp_path / ".elsewhere/1")
    (tmp_path / "a/latest").symlink_to("3")
    for dangling in ("gone", "a/4", "a/gone"):
        (tmp_path / dangling).symlink_to(tmp_path / "nowhere")
    assert names(tmp_path) == [("a", 3)]
    assert caplog.messages == []


@pytest.mark.parametrize("place", ["loop", "model/0", "broken/loop", "broken/1", "broken/1/loop"])
def test_link_to_itself_hides_nothing_else(tmp_path: Path, place: str) -> None:
    put(tmp_path, f"model/1/{GRAPH}")
    link = tmp_path / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(link)
    assert ("model", 1) in names(tmp_path)


def test_unreadable_model_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def scandir(path: Path | str) -> Any:
        if Path(path).name == "remote":
            raise OSError(errno.ESTALE, "Stale file handle")
        return really(path)

    really = os.scandir
    put(tmp_path, f"remote/1/{GRAPH}")
    repository = Repository(tmp_path)
    repository.versions()
    put(tmp_path, f"model/1/{GRAPH}")
    with monkeypatch.context() as down:
        down.setattr(os, "scandir", scandir)
        for _ in range(2):
            assert sorted(repository.versions()) == [("model", 1), ("remote", 1)]
    assert caplog.text.count("remote cannot be read (what is loaded of it goes on serving): Stale file handle") == 1
    shutil.rmtree(tmp_path / "remote")
    assert sorted(repository.versions()) == [("model", 1)]


def test_path_of_a_version(tmp_path: Path) -> None:
    put(tmp_path, f"models/model/1/{GRAPH}")
    repository = Repository(tmp_path / "models")
    assert repository.path("model", 1) == tmp_path / "models/model/1"
    for gone in ("models/model/1", "models"):
        shutil.rmtree(tmp_path / gone)
        with pytest.raises(NotFound, match="model version 1 is no longer on disk"):
            repository.path("model", 1)
    with pytest.raises(FileNotFoundError):
        repository.versions()


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        (GRAPH, "nothing is served: saved_model.pb lies in the models folder itself"),
        (f"1/{GRAPH}", "nothing is served: 1/saved_model.pb lies in the models folder"),
        (f"models/x/1/{GRAPH}", f"'models' is not served: it holds models of its own (models/x/1/{GRAPH})"),
        (f"x/{GRAPH}", "'x' is not served: saved_model.pb lies in it, and not in a folder of a version"),
        (f"x/v1/{GRAPH}", "'x/v1' is not served: saved_model.pb lies in it, but a version is a number"),
        ("x/latest/saved_model.cpb", "'x/latest' is not served: saved_model.cpb lies in it"),
        (
            "x.keras",
            "'x.keras' is not served: it is a file of Keras: python -m training import models/x.keras --name x",
        ),
        ("x.H5", "'x.H5' is not served: it is a file of Keras"),
        (
            "my x/a.keras",
            "'my x/a.keras' is not served: it is a file of Keras: python -m training import 'models/my x/",
        ),
        ("x.tflite", "'x.tflite' is not served: it is a LiteRT model; expected x/1/model.tflite"),
        ("x/a.tflite", "'x/a.tflite' is not served: it is a LiteRT model; expected x/1/model.tflite"),
        ("x/model.tflite", "'x' is not served: model.tflite lies in it, and not in a folder of a version"),
        ("x/v1/model.tflite", "'x/v1' is not served: model.tflite lies in it, but a version is a number"),
        ("x/a.onnx", "'x/a.onnx' is not served: it is no SavedModel; expected"),
        (f"x/9223372036854775808/{GRAPH}", "'x/9223372036854775808' is not served: a version is a number of at most"),
        (f"a:b/1/{GRAPH}", "'a:b' is not served: its name has a colon"),
        (f"\udcff/1/{GRAPH}", "'\\udcff' is not served: its name has a character that cannot be printed"),
    ],
)
def test_what_is_not_served_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, memory: SharedMemory, file: str, sentence: str
) -> None:
    put(tmp_path, file)
    for slot in (1, 2):
        repository = Repository(tmp_path, is_first=board_of(memory, slot).is_first)
        for _ in range(2):
            assert repository.versions() == {}
    (line,) = caplog.messages
    assert line.startswith(sentence)


def test_only_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, f"x/1/{GRAPH}", f"y/1/{GRAPH}", f"z/{GRAPH}")
    assert names(tmp_path, "x") == [("x", 1)]
    assert caplog.messages == []
    assert names(tmp_path, "nowhere") == []
    (line,) = caplog.messages
    assert line.startswith("'nowhere' is not served: SERVING_MODEL_NAME asks for it")


def test_number_of_folders_is_limited(tmp_path: Path) -> None:
    for number in range(MAX_FOLDERS + 50):
        (tmp_path / "home" / f"folder {number}").mkdir(parents=True)
    put(tmp_path, f"home/z/1/{GRAPH}", f"models/x/1/{GRAPH}")
    repository = Repository(tmp_path)
    repository.versions()
    assert repository.skipped == {}


@pytest.mark.parametrize(
    ("root", "base_paths", "only", "expected"),
    [
        ("models", {"b": "x"}, None, {"a/1": "models/a/1", "b/7": "x/7"}),
        ("models", {"a": "x"}, None, {"a/7": "x/7"}),
        ("none", {"b": "x", "c": "y"}, {"b", "c"}, {"b/7": "x/7", "c/2": "y/0002"}),
        ("models", {"b": "x", "c": "x"}, {"b", "c"}, {"b/7": "x/7", "c/7": "x/7"}),
    ],
    ids=["beside the folder", "in its place", "without a folder", "of several models"],
)
def test_base_paths(
    tmp_path: Path, root: str, base_paths: dict[str, str], only: set[str] | None, expected: dict[str, str]
) -> None:
    put(tmp_path, f"models/a/1/{GRAPH}", f"x/7/{GRAPH}", f"y/0002/{GRAPH}")
    repository = Repository(tmp_path / root)
    repository.look_in(Places({model: tmp_path / path for model, path in base_paths.items()}, only))
    found = {f"{model}/{version}": path for (model, version), path in repository.versions().items()}
    assert found == {key: tmp_path / path for key, path in expected.items()}


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("missing", "its base path cannot be read: No such file or directory"),
        ("file", "its base path cannot be read: Not a directory"),
        ("empty", "its base path has no folder with a number"),
        ("version", "saved_model.pb lies in it, and not in a folder of a version"),
    ],
)
def test_base_path_without_versions_is_said(tmp_path: Path, place: str, reason: str) -> None:
    (tmp_path / "empty").mkdir()
    put(tmp_path, "file", f"version/{GRAPH}")
    repository = Repository(tmp_path)
    repository.look_in(Places({"a": tmp_path / place}, frozenset({"a"})))
    assert repository.versions() == {}
    assert reason in repository.skipped["a"]
    assert str(tmp_path) not in repository.skipped["a"]


def test_base_path_that_is_gone_keeps_its_versions(tmp_path: Path) -> None:
    put(tmp_path, f"x/1/{GRAPH}")
    repository = Repository(tmp_path)
    repository.look_in(Places({"a": tmp_path / "x"}, frozenset({"a"})))
    before = repository.versions()
    shutil.rmtree(tmp_path / "x")
    assert repository.versions() == before == {("a", 1): tmp_path / "x/1"}


def test_disk_is_polled_once_in_a_pause(tmp_path: Path) -> None:
    now = 0.0
    repository = Repository(tmp_path, pause_seconds=60, clock=lambda: now)
    assert repository.versions() == {}
    put(tmp_path, f"a/1/{GRAPH}")
    now += 59
    assert repository.versions() == {}
    now += 1
    assert repository.versions().keys() == {("a", 1)}
    # Other places are looked into at once.
    repository.look_in(Places({"b": tmp_path / "a"}, frozenset({"b"})))
    assert repository.versions().keys() == {("b", 1)}
