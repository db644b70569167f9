import logging
import shutil
import threading
from pathlib import Path

import pytest

from service.engines.base import Engine, LoadError
from service.inference.version import LoadedVersion, State
from service.lifecycle.policies import policy_file
from service.lifecycle.registry import Registry
from service.lifecycle.repository import Repository
from service.lifecycle.watcher import Watcher
from service.lifecycle.workers import Agreement
from service.serving_config import ASSETS, CONFIG_FILE, ServingConfig, write_serving_config
from service.settings import Settings
from tests.unit.service.watched import FakeLoader, Watched, preparation

SECONDS_AT_MOST = 10


@pytest.fixture
def setup(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "models")


def test_what_lies_there_at_the_first_look_is_loaded_at_once_the_newest_of_each_model_first(setup: Watched) -> None:
    for name in ("b/1", "a/2", "a/10", "a/1"):
        setup.add(name)
    setup.watcher.scan()
    assert setup.loader.loaded == ["a/10", "b/1", "a/2", "a/1"]
    assert set(setup.states().values()) == {State.AVAILABLE}
    assert setup.registry.ready


def test_an_available_version_says_its_engine_and_how_long_it_took(setup: Watched) -> None:
    setup.add("a/1")
    setup.watcher.scan()
    status = setup.registry.statuses()["a"][1]
    assert (status.engine, status.error) == ("fake", "")
    assert status.load_seconds >= 0


def test_what_is_loaded_is_not_loaded_again(setup: Watched) -> None:
    setup.add("a/1")
    for _ in range(3):
        setup.watcher.scan()
    assert setup.loader.loaded == ["a/1"]


def test_what_appears_later_is_loaded_once_two_looks_find_the_same_files(setup: Watched) -> None:
    setup.watcher.scan()
    setup.add("a/1", b"half")
    setup.watcher.scan()
    setup.add("a/1", b"half and half")
    setup.watcher.scan()
    assert setup.states() == {"a/1": State.START}
    assert setup.loader.loaded == []
    setup.watcher.scan()
    assert setup.states() == {"a/1": State.AVAILABLE}


def test_what_vanishes_is_unloaded(setup: Watched, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    setup.add("a/1")
    setup.add("a/2")
    setup.watcher.scan()
    shutil.rmtree(setup.models / "a" / "2")
    setup.scan_after_absence()
    assert setup.states() == {"a/1": State.AVAILABLE}
    assert setup.registry.get("a").version == 1
    assert "a version 2 has vanished" in caplog.text
    assert "a version 2 is unloaded" in caplog.text


def test_what_vanishes_before_it_was_loaded_is_forgotten(setup: Watched) -> None:
    setup.watcher.scan()
    folder = setup.add("a/1")
    setup.watcher.scan()
    shutil.rmtree(folder)
    setup.watcher.scan()
    assert setup.states() == {}
    assert setup.loader.loaded == []


def test_what_is_loaded_first_is_served_while_the_rest_is_still_being_loaded(tmp_path: Path) -> None:
    class Waiting(FakeLoader):
        def __call__(self, path: Path, config: ServingConfig) -> Engine:
            if path.parts[-2] == "b":
                served.append(setup.registry.get("a"))
            return super().__call__(path, config)

    served: list[LoadedVersion] = []
    setup = Watched(tmp_path / "models", loader=Waiting())
    setup.add("a/1")
    setup.add("b/1")
    setup.watcher.scan()
    assert [loaded.model for loaded in served] == ["a"]


def test_every_version_that_was_found_is_known_before_the_first_is_loaded(tmp_path: Path) -> None:
    known_at_the_first: list[str] = []

    class Looking(FakeLoader):
        def __call__(self, path: Path, config: ServingConfig) -> Engine:
            if not known_at_the_first:
                known_at_the_first.extend(looked_at.states())
            return super().__call__(path, config)

    looked_at = Watched(tmp_path / "models", loader=Looking())
    looked_at.add("a/1")
    looked_at.add("b/1")
    looked_at.watcher.scan()
    assert sorted(known_at_the_first) == ["a/1", "b/1"]


def test_what_comes_back_after_it_vanished_is_loaded_again(setup: Watched) -> None:
    folder = setup.add("a/1")
    setup.watcher.scan()
    shutil.rmtree(folder)
    setup.scan_after_absence()
    setup.add("a/1")
    setup.scan()
    assert setup.states() == {"a/1": State.AVAILABLE}
    assert setup.loader.loaded == ["a/1", "a/1"]


def test_a_version_that_cannot_be_loaded_says_why_and_leaves_the_others_serving(
    setup: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    setup.add("a/1")
    setup.add("b/1")
    setup.loader.errors["a/1"] = LoadError("TensorFlow is not installed; install it with pip")
    setup.watcher.scan()
    assert setup.states() == {"a/1": State.END, "b/1": State.AVAILABLE}
    error = setup.registry.statuses()["a"][1].error
    assert error.startswith("TensorFlow is not installed; install it with pip (tried once; next at ")
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.message == f"a version 1 cannot be loaded: {error}"
    assert not record.exc_info


def test_an_error_that_nobody_expected_is_logged_with_its_traceback(
    setup: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    setup.add("a/1")
    setup.add("b/1")
    setup.loader.errors["a/1"] = MemoryError()
    setup.watcher.scan()
    assert setup.states() == {"a/1": State.END, "b/1": State.AVAILABLE}
    assert setup.registry.statuses()["a"][1].error.startswith("MemoryError (tried once")
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info


def test_a_broken_serving_json_fails_its_version_alone(setup: Watched) -> None:
    folder = setup.add("a/1")
    setup.add("b/1")
    (folder / ASSETS).mkdir()
    (folder / ASSETS / CONFIG_FILE).write_text('{"lables": []}')
    setup.watcher.scan()
    assert setup.states() == {"a/1": State.END, "b/1": State.AVAILABLE}
    assert "unknown field `lables`" in setup.registry.statuses()["a"][1].error


def test_what_serving_json_says_comes_with_the_version(setup: Watched) -> None:
    write_serving_config(setup.add("a/1"), ServingConfig(labels=("cat", "dog")))
    setup.watcher.scan()
    assert setup.registry.get("a").config.labels == ("cat", "dog")


def test_a_failed_version_is_tried_again_once_its_files_have_changed(setup: Watched) -> None:
    setup.add("a/1", b"broken")
    setup.loader.errors["a/1"] = LoadError("broken")
    for _ in range(3):
        setup.watcher.scan()
    assert setup.loader.loaded == ["a/1"]
    setup.loader.errors.clear()
    setup.add("a/1", b"repaired")
    setup.watcher.scan()
    assert setup.states() == {"a/1": State.END}
    setup.watcher.scan()
    assert setup.states() == {"a/1": State.AVAILABLE}


def test_a_failed_version_that_vanishes_is_forgotten(setup: Watched) -> None:
    folder = setup.add("a/1")
    setup.loader.errors["a/1"] = LoadError("broken")
    setup.watcher.scan()
    shutil.rmtree(folder)
    setup.watcher.scan()
    assert setup.states() == {}


def test_a_models_folder_that_cannot_be_read_leaves_what_is_loaded_serving(
    setup: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    setup.add("a/1")
    setup.watcher.scan()
    setup.models.rename(setup.models.with_name("away"))
    setup.watcher.scan()
    assert setup.states() == {"a/1": State.AVAILABLE}
    assert "cannot read the models folder (what is loaded goes on serving)" in caplog.text


def test_it_looks_again_and_again_until_it_is_stopped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also after a look that failed in a way that nobody expected."""
    looked_thrice = threading.Event()
    looks = 0

    class Flaky(Repository):
        def versions(self) -> dict[tuple[str, int], Path]:
            nonlocal looks
            looks += 1
            if looks == 1:
                raise RuntimeError("out of luck")
            if looks == 3:
                looked_thrice.set()
            return {}

    registry = Registry()
    policies = policy_file(Settings(models=tmp_path))
    watcher = Watcher(Flaky(tmp_path), registry, preparation(FakeLoader()), 0.001, policies, Agreement(registry))
    watcher.start()
    assert looked_thrice.wait(SECONDS_AT_MOST)
    watcher.stop()
    for thread in threading.enumerate():
        if thread.name == "watcher":
            thread.join(SECONDS_AT_MOST)
            assert not thread.is_alive()
    assert registry.ready
    assert "looking through the models folder failed; trying again" in caplog.text
    assert "out of luck" in caplog.text
