import logging
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from service.batcher import Batcher, BatchLimits, BatchObserver
from service.engines import Engine, LoadError
from service.registry import Registry, State
from service.repository import Repository, VersionOnDisk
from service.serving_config import ASSETS, CONFIG_FILE, ServingConfig, write_serving_config
from service.signature import DEFAULT_SIGNATURE, TensorSpec
from service.watcher import Watcher
from tests.unit.service.fakes import FakeEngine, any_shape, echo, signature, tensor

SECONDS_AT_MOST = 10
NEVER_SECONDS = 3600


def make_batcher(_model: str, _version: int, engine: Engine) -> Batcher:
    return Batcher(engine.run, engine.signatures, BatchLimits(8, 0), BatchObserver())


@dataclass
class FakeLoader:
    """Loads a fake engine for every version, but for those with an error of their own."""

    errors: dict[str, Exception] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)

    def __call__(self, on_disk: VersionOnDisk, config: ServingConfig) -> Engine:
        name = "/".join(on_disk.path.parts[-2:])
        self.loaded.append(name)
        if error := self.errors.get(name):
            raise error
        return FakeEngine({DEFAULT_SIGNATURE: signature({"x": any_shape("DT_FLOAT")})}, echo)


@dataclass
class Setup:
    models: Path
    registry: Registry = field(default_factory=Registry)
    loader: FakeLoader = field(default_factory=FakeLoader)

    def __post_init__(self) -> None:
        self.watcher = Watcher(Repository(self.models), self.registry, self.loader, make_batcher, NEVER_SECONDS)

    def add(self, name: str, content: bytes = b"graph") -> Path:
        folder = self.models / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "saved_model.pb").write_bytes(content)
        return folder

    def states(self) -> dict[str, State]:
        return {
            f"{model}/{version}": status.state
            for model, versions in self.registry.statuses().items()
            for version, status in versions.items()
        }


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path / "models")


def test_what_lies_there_at_the_first_look_is_loaded_at_once_the_newest_first(setup: Setup) -> None:
    for name in ("b/1", "a/2", "a/10", "a/1"):
        setup.add(name)
    setup.watcher.scan()
    assert setup.loader.loaded == ["a/10", "a/2", "a/1", "b/1"]
    assert set(setup.states().values()) == {State.AVAILABLE}
    assert setup.registry.ready


def test_an_available_version_says_its_engine_and_how_long_it_took(setup: Setup) -> None:
    setup.add("a/1")
    setup.watcher.scan()
    status = setup.registry.statuses()["a"][1]
    assert (status.engine, status.error) == ("fake", "")
    assert status.load_seconds >= 0


def test_what_is_loaded_is_not_loaded_again(setup: Setup) -> None:
    setup.add("a/1")
    for _ in range(3):
        setup.watcher.scan()
    assert setup.loader.loaded == ["a/1"]


def test_what_appears_later_is_loaded_once_two_looks_find_the_same_files(setup: Setup) -> None:
    setup.models.mkdir()
    setup.watcher.scan()
    setup.add("a/1", b"half")
    setup.watcher.scan()
    setup.add("a/1", b"half and half")
    setup.watcher.scan()
    assert setup.states() == {"a/1": State.START}
    assert setup.loader.loaded == []
    setup.watcher.scan()
    assert setup.states() == {"a/1": State.AVAILABLE}


def test_what_vanishes_is_unloaded(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    setup.add("a/1")
    setup.add("a/2")
    setup.watcher.scan()
    shutil.rmtree(setup.models / "a" / "2")
    setup.watcher.scan()
    assert setup.states() == {"a/1": State.AVAILABLE}
    assert setup.registry.get("a").version == 1
    assert "a version 2 has vanished: unloaded" in caplog.text


def test_what_vanishes_before_it_was_loaded_is_forgotten(setup: Setup) -> None:
    setup.models.mkdir()
    setup.watcher.scan()
    folder = setup.add("a/1")
    setup.watcher.scan()
    shutil.rmtree(folder)
    setup.watcher.scan()
    assert setup.states() == {}
    assert setup.loader.loaded == []


def test_every_version_that_was_found_is_known_before_the_first_is_loaded(tmp_path: Path) -> None:
    known_at_the_first: list[str] = []

    class Looking(FakeLoader):
        def __call__(self, on_disk: VersionOnDisk, config: ServingConfig) -> Engine:
            if not known_at_the_first:
                known_at_the_first.extend(looked_at.states())
            return super().__call__(on_disk, config)

    looked_at = Setup(tmp_path / "models", loader=Looking())
    looked_at.add("a/1")
    looked_at.add("b/1")
    looked_at.watcher.scan()
    assert sorted(known_at_the_first) == ["a/1", "b/1"]


def test_what_comes_back_after_it_vanished_is_loaded_again(setup: Setup) -> None:
    folder = setup.add("a/1")
    setup.watcher.scan()
    shutil.rmtree(folder)
    setup.watcher.scan()
    setup.add("a/1")
    setup.watcher.scan()
    setup.watcher.scan()
    assert setup.states() == {"a/1": State.AVAILABLE}
    assert setup.loader.loaded == ["a/1", "a/1"]


def test_a_version_that_cannot_be_loaded_says_why_and_leaves_the_others_serving(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    setup.add("a/1")
    setup.add("b/1")
    setup.loader.errors["a/1"] = LoadError("TensorFlow is not installed; install it with pip")
    setup.watcher.scan()
    assert setup.states() == {"a/1": State.END, "b/1": State.AVAILABLE}
    assert setup.registry.statuses()["a"][1].error == "TensorFlow is not installed; install it with pip"
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.message == "a version 1 cannot be loaded: TensorFlow is not installed; install it with pip"
    assert not record.exc_info


def test_an_error_that_nobody_expected_is_logged_with_its_traceback(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    setup.add("a/1")
    setup.add("b/1")
    setup.loader.errors["a/1"] = MemoryError()
    setup.watcher.scan()
    assert setup.states() == {"a/1": State.END, "b/1": State.AVAILABLE}
    assert setup.registry.statuses()["a"][1].error == "MemoryError"
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info


def test_a_broken_serving_json_fails_its_version_alone(setup: Setup) -> None:
    folder = setup.add("a/1")
    setup.add("b/1")
    (folder / ASSETS).mkdir()
    (folder / ASSETS / CONFIG_FILE).write_text('{"lables": []}')
    setup.watcher.scan()
    assert setup.states() == {"a/1": State.END, "b/1": State.AVAILABLE}
    assert "unknown field `lables`" in setup.registry.statuses()["a"][1].error


def test_what_serving_json_says_comes_with_the_version(setup: Setup) -> None:
    write_serving_config(setup.add("a/1"), ServingConfig(labels=("cat", "dog")))
    setup.watcher.scan()
    assert setup.registry.get("a").config.labels == ("cat", "dog")


def test_a_failed_version_is_tried_again_only_when_its_files_change(setup: Setup) -> None:
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


def test_a_failed_version_that_vanishes_is_forgotten(setup: Setup) -> None:
    folder = setup.add("a/1")
    setup.loader.errors["a/1"] = LoadError("broken")
    setup.watcher.scan()
    shutil.rmtree(folder)
    setup.watcher.scan()
    assert setup.states() == {}


def test_a_models_folder_that_cannot_be_read_leaves_what_is_loaded_serving(
    setup: Setup, caplog: pytest.LogCaptureFixture
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
        def versions(self) -> dict[tuple[str, int], VersionOnDisk]:
            nonlocal looks
            looks += 1
            if looks == 1:
                raise RuntimeError("out of luck")
            if looks == 3:
                looked_thrice.set()
            return {}

    watcher = Watcher(Flaky(tmp_path), registry := Registry(), FakeLoader(), make_batcher, poll_seconds=0.001)
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


@pytest.mark.parametrize(("spec", "is_quick"), [(tensor("DT_FLOAT", -1), True), (any_shape("DT_FLOAT"), False)])
def test_a_version_that_is_not_known_to_be_quick_gets_a_batcher(
    tmp_path: Path, spec: TensorSpec, is_quick: bool
) -> None:
    (tmp_path / "model" / "1").mkdir(parents=True)
    engine = FakeEngine({DEFAULT_SIGNATURE: signature({"x": spec})}, echo)
    watcher = Watcher(Repository(tmp_path), registry := Registry(), lambda *_: engine, make_batcher, NEVER_SECONDS)
    watcher.scan()
    assert (registry.get("model").batcher is None) is is_quick
    assert registry.is_quick("model") is is_quick
