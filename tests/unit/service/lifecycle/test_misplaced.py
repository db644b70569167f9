"""Models in the wrong place: each said once, with what to do; and a service that is not ready for nothing."""

import shutil
from pathlib import Path

import pytest

from service.cli.greeting import greeting
from service.lifecycle.registry import Registry
from service.lifecycle.repository import MAX_FOLDERS, Repository
from service.runtime.shared_memory import SharedMemory
from service.settings import Settings
from tests.unit.service.fakes import FakeService, error
from tests.unit.service.watched import Watched, board_of


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
def test_a_model_in_the_wrong_place_is_told_once_with_what_to_do(
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
def test_what_is_in_its_place_or_no_model_is_not_spoken_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, files: list[str]
) -> None:
    put(tmp_path, *files)
    Repository(tmp_path).versions()
    assert caplog.messages == []


def test_another_model_than_the_one_asked_for_is_not_spoken_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "x/1/saved_model.pb", "y/saved_model.pb")
    Repository(tmp_path, "x").versions()
    assert caplog.messages == []


def test_the_one_model_that_is_asked_for_is_missed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, "y/1/saved_model.pb")
    Repository(tmp_path, "x").versions()
    assert caplog.messages == ["'x' is not served: SERVING_MODEL_NAME asks for it, and there is no x/<version>"]


def test_only_so_many_folders_are_looked_into(tmp_path: Path) -> None:
    for number in range(MAX_FOLDERS + 50):
        (tmp_path / "home" / f"folder {number}").mkdir(parents=True)
    put(tmp_path, "home/z/1/saved_model.pb", "models/x/1/saved_model.pb")
    repository = Repository(tmp_path)
    repository.versions()
    assert repository.skipped == {}


def test_the_worker_processes_say_it_once_together(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (models := tmp_path / "models").mkdir()
    put(models, "x/saved_model.pb")
    memory = SharedMemory()
    for slot in (1, 2):
        Repository(models, is_first=board_of(memory, slot).is_first).versions()
    assert len(caplog.messages) == 1


def test_a_service_is_not_ready_for_nothing_unless_nothing_was_asked_for(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "models")
    watched.scan()
    assert watched.registry.ready
    put(watched.models, "x/saved_model.pb")
    watched.scan()
    assert not watched.registry.ready
    put(watched.models, "y/1/saved_model.pb")
    watched.scan()
    assert watched.registry.ready
    shutil.rmtree(watched.models / "y")
    shutil.rmtree(watched.models / "x")
    watched.scan_after_absence()
    watched.scan()
    assert watched.registry.ready


@pytest.mark.parametrize(
    ("file", "asked", "words"),
    [
        ("mine/saved_model.pb", "mine", "('mine' is not served: saved_model.pb lies in it"),
        ("mine/v1/saved_model.pb", "mine", "('mine/v1' is not served: saved_model.pb lies in it"),
        ("1/saved_model.pb", "mine", "(nothing is served: 1/saved_model.pb lies in the models folder"),
        ("mine/saved_model.pb", "other", "(no such model; GET /v1/models lists them)"),
    ],
)
def test_who_asks_for_a_misplaced_model_is_told(
    service: FakeService, tmp_path: Path, file: str, asked: str, words: str
) -> None:
    put(tmp_path, file)
    service.app.watcher.scan()
    response = service.post(f"/v1/models/{asked}:predict", {"instances": [1]})
    assert response.status_code == 404
    assert words in error(response)


def test_the_greeting_names_what_is_misplaced(tmp_path: Path) -> None:
    registry = Registry()
    registry.skipped = {"x": "it holds nothing"}
    told = greeting(registry, Settings(models=tmp_path))
    assert "  'x' is not served: it holds nothing" in told
    assert "no models yet" not in told
