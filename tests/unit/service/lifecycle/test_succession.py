import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from service.engines.base import LoadError
from service.errors import NotFound, Unavailable
from service.inference.version import State
from service.lifecycle.registry import Registry
from tests.unit.service.lifecycle.conftest import MakeWorker, Pair
from tests.unit.service.lifecycle.worker import Worker, scan_in_turns, while_scanning

UNLOAD_FIRST = "[models.a]\nversions = {latest = 1}\nreplace = 'unload_first'"


def folder_of(worker: Worker) -> Path:
    """That the answering version was loaded from."""
    folder = worker.registry.get("a").folder
    assert folder is not None
    return folder.path


def answering(worker: Worker) -> list[int]:
    """The versions that answer while others are being loaded from now on."""
    found: list[int] = []
    worker.loader.meanwhile = lambda: found.append(worker.registry.get("a").version)
    return found


def add_second(worker: Worker, policy: str = "versions = {latest = 1}") -> None:
    worker.add("a/2")
    worker.write_policies(f"[models.a]\n{policy}")


def rename_version(worker: Worker) -> None:
    (worker.models / "a" / "1").rename(worker.models / "a" / "2")


def exchange_model(worker: Worker) -> None:
    worker.add(".new/2")
    (worker.models / "a").rename(worker.models / ".old")
    (worker.models / ".new").rename(worker.models / "a")


@pytest.mark.parametrize(
    ("before", "change"),
    [
        ("", lambda worker: add_second(worker, "versions = [2]")),
        (
            "labels = {stable = 1}",
            lambda worker: add_second(worker, "versions = []\nlabels = {stable = 2}"),
        ),
        ("", add_second),
        ("", rename_version),
        ("", exchange_model),
    ],
    ids=["list", "label", "latest", "renamed version", "exchanged model"],
)
def test_old_version_answers_until_its_successor_does(
    worker: Worker, caplog: pytest.LogCaptureFixture, before: str, change: Callable[[Worker], None]
) -> None:
    caplog.set_level(logging.INFO)
    worker.begin_with("a/1", policies=f"[models.a]\n{before}")
    worker.loader.errors["a/2"] = LoadError("broken")
    answered = answering(worker)
    change(worker)
    for _ in range(4):
        worker.scan_each_second(1)
        assert worker.registry.ready
        worker.registry.check_ready("a")
    assert worker.states() == {"a/1": State.AVAILABLE, "a/2": State.END}
    assert worker.registry.get("a").version == 1
    assert caplog.text.count("it answers until version 2 does in every worker process") == 1
    worker.loader.errors.clear()
    worker.now += 100
    worker.scan(3)
    assert set(answered) == {1}
    assert worker.states() == {"a/2": State.AVAILABLE}
    assert worker.registry.get("a").version == 2


def test_named_version_may_appear_later(worker: Worker) -> None:
    worker.begin_with("a/1")
    worker.write_policies("[models.a]\nversions = [2]")
    worker.scan(3)
    assert worker.states() == {"a/1": State.AVAILABLE}
    worker.add("a/2")
    worker.scan(3)
    assert worker.states() == {"a/2": State.AVAILABLE}


def test_remaining_version_does_not_answer_for_a_new_successor(worker: Worker) -> None:
    worker.begin_with("a/1", "a/2")
    answered = answering(worker)
    shutil.rmtree(worker.models / "a" / "2")
    worker.add("a/3")
    worker.loader.errors["a/3"] = LoadError("broken")
    worker.scan_each_second(4)
    assert worker.registry.get("a").version == 2
    worker.loader.errors.clear()
    worker.now += 100
    worker.scan()
    assert set(answered) == {2}
    assert worker.registry.get("a").version == 3


def test_version_that_failed_before_holds_nothing(worker: Worker) -> None:
    worker.loader.errors["a/3"] = LoadError("broken")
    worker.begin_with("a/1", "a/2", "a/3")
    shutil.rmtree(worker.models / "a" / "2")
    worker.scan_each_second()
    assert worker.states() == {"a/1": State.AVAILABLE, "a/3": State.END}
    assert worker.registry.get("a").version == 1


def test_version_without_successor_is_unloaded_at_once(worker: Worker) -> None:
    worker.begin_with("a/1", "a/2")
    worker.add("a/3")
    worker.write_policies("[models.a]\nversions = {latest = 2}")
    worker.watcher.scan()
    assert worker.states() == {"a/2": State.AVAILABLE, "a/3": State.START}
    worker.write_policies("[models.a]\nversions = []")
    worker.watcher.scan()
    assert worker.states() == {}


def test_briefly_missing_version_goes_on_serving(worker: Worker) -> None:
    worker.begin_with("a/1")
    for _ in range(2):
        (worker.models / "a").rename(worker.models / ".a")
        worker.scan(3)
        assert worker.registry.get("a", 1).version == 1
        (worker.models / ".a").rename(worker.models / "a")
        worker.scan_each_second(1)
    assert worker.states() == {"a/1": State.AVAILABLE}
    assert worker.loader.loaded == ["a/1"]


def test_version_that_is_wanted_again_is_not_held(worker: Worker) -> None:
    worker.begin_with("a/1")
    worker.loader.errors["a/2"] = LoadError("broken")
    add_second(worker)
    worker.scan()
    assert worker.registry.held("a") == {1: {2}}
    worker.write_policies("[models.a]\nversions = [1]")
    worker.scan()
    assert worker.states() == {"a/1": State.AVAILABLE}
    assert worker.registry.held("a") == {}


def replace(worker: Worker) -> None:
    """Version 1, with another folder of the same name."""
    worker.add(".new/1", b"new")
    (worker.models / "a/1").rename(worker.models / ".old")
    (worker.models / ".new/1").rename(worker.models / "a/1")


def recreate(worker: Worker) -> None:
    """Version 1; the file system reuses the inode number."""
    shutil.rmtree(worker.models / "a/1")
    worker.add("a/1")


@pytest.mark.parametrize("change", [replace, recreate])
def test_replaced_folder_is_loaded_and_swapped_in(worker: Worker, change: Callable[[Worker], None]) -> None:
    worker.begin_with("a/1")
    before = worker.registry.get("a")
    answers = []
    worker.loader.meanwhile = lambda: answers.append((worker.registry.get("a"), worker.states()))
    change(worker)
    worker.watcher.scan()
    assert worker.registry.get("a") is before
    worker.watcher.scan()
    assert answers == [(before, {"a/1": State.AVAILABLE})]
    assert worker.registry.get("a") is worker.registry.get("a", 1) is not before
    worker.scan()
    assert worker.loader.loaded == ["a/1", "a/1"]
    assert worker.states() == {"a/1": State.AVAILABLE}


@pytest.mark.parametrize("link", ["models", "models/a", "models/a/1"])
def test_changed_link_is_loaded(tmp_path: Path, link: str) -> None:
    for revision in "one", "two":
        (folder := tmp_path / revision / "models/a/1").mkdir(parents=True)
        (folder / "saved_model.pb").write_bytes(b"graph")
    place = tmp_path / link
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(tmp_path / "one" / link)
    worker = Worker(tmp_path / "models")
    worker.watcher.scan()
    assert folder_of(worker) == tmp_path / "one/models/a/1"
    place.unlink()
    place.symlink_to(tmp_path / "two" / link)
    worker.scan()
    assert folder_of(worker) == tmp_path / "two/models/a/1"


def test_moved_models_folder_is_not_loaded_again(worker: Worker, tmp_path: Path) -> None:
    worker.begin_with("a/1")
    worker.models.rename(tmp_path / "elsewhere")
    worker.models.symlink_to(tmp_path / "elsewhere")
    worker.scan(3)
    assert worker.loader.loaded == ["a/1"]


def test_failed_replacement_leaves_the_old_folder_serving(worker: Worker) -> None:
    worker.begin_with("a/1")
    before = worker.registry.get("a")
    worker.loader.errors["a/1"] = LoadError("broken")
    replace(worker)
    worker.scan(3)
    status = worker.registry.statuses()["a"][1]
    assert status.state is State.AVAILABLE
    assert status.error.startswith("broken (tried once; next at ")
    assert worker.registry.get("a") is before
    worker.registry.check_ready("a")
    assert worker.failures == [("a", 1)]
    # The old folder is put back.
    (worker.models / "a/1").rename(worker.models / ".broken")
    (worker.models / ".old").rename(worker.models / "a/1")
    worker.scan(3)
    assert worker.registry.get("a") is before
    assert worker.registry.statuses()["a"][1].error == ""
    assert worker.loader.loaded == ["a/1", "a/1"]
    worker.loader.errors.clear()
    (worker.models / "a/1").rename(worker.models / ".old")
    (worker.models / ".broken").rename(worker.models / "a/1")
    worker.scan()
    assert worker.registry.get("a") is not before


def test_folder_replaced_while_loading_is_not_served(worker: Worker) -> None:
    def replace_once() -> None:
        worker.loader.meanwhile = lambda: None
        replace(worker)

    worker.loader.meanwhile = replace_once
    worker.begin_with("a/1")
    assert worker.states() == {"a/1": State.END}
    assert "its folder was replaced while it was being loaded" in worker.registry.statuses()["a"][1].error
    worker.scan(3)
    assert worker.states() == {"a/1": State.AVAILABLE}


def test_old_version_stays_until_every_worker_has_its_successor(serving: Pair) -> None:
    one, other = serving
    add_second(one)
    one.scan(3)
    assert one.states() == {"a/1": State.AVAILABLE, "a/2": State.LOADING}
    assert [one.registry.get("a", version).version for version in (None, 2)] == [1, 2]
    other.scan(3)
    assert other.states() == {"a/1": State.AVAILABLE, "a/2": State.AVAILABLE}
    assert (one.registry.get("a").version, other.registry.get("a").version) == (1, 2)
    scan_in_turns(one, other, times=1)
    assert one.states() == other.states() == {"a/2": State.AVAILABLE}


def test_successor_that_fails_in_one_worker_leaves_the_old_version_in_all(
    serving: Pair, new_worker: MakeWorker
) -> None:
    one, other = serving
    other.loader.errors["a/2"] = LoadError("no memory")
    add_second(one)
    scan_in_turns(one, other, times=4)
    assert one.states() == {"a/1": State.AVAILABLE, "a/2": State.AVAILABLE}
    assert other.states() == {"a/1": State.AVAILABLE, "a/2": State.END}
    assert (one.registry.get("a").version, other.registry.get("a").version) == (2, 1)
    # Also in a worker process that starts later.
    later = new_worker(3)
    later.loader.errors["a/2"] = LoadError("no memory")
    later.watcher.scan()
    scan_in_turns(one, other, later, times=2)
    assert later.registry.get("a").version == 1


def test_replacement_is_swapped_in_once_every_worker_has_tried_it(serving: Pair) -> None:
    one, other = serving
    before = one.registry.get("a"), other.registry.get("a")
    other.loader.errors["a/1"] = LoadError("no memory")
    replace(one)
    one.scan(4)
    assert one.registry.get("a") is before[0]
    scan_in_turns(other, one, times=2)
    assert one.registry.get("a") is not before[0]
    assert other.registry.get("a") is before[1]
    assert one.loader.loaded == other.loader.loaded == ["a/1", "a/1"]
    assert one.registry.replacements() == {}


def test_successor_of_a_model_on_demand_in_use_is_loaded(worker: Worker) -> None:
    worker.begin_with("a/1")
    add_second(worker, "versions = {latest = 1}\nload = 'on_demand'")
    worker.scan(3)
    assert worker.states() == {"a/2": State.AVAILABLE}


@pytest.mark.parametrize("change", [add_second, exchange_model, replace])
def test_unload_first(worker: Worker, change: Callable[[Worker], None]) -> None:
    worker.begin_with("a/1", policies=UNLOAD_FIRST)
    loaded: list[int] = []
    worker.loader.meanwhile = lambda: loaded.append(len(worker.registry.loaded()))
    held = [worker.registry.get("a")]
    change(worker)
    worker.write_policies(UNLOAD_FIRST)
    worker.watcher.scan()
    assert worker.registry.get("a") is held[0]
    worker.now += 1
    worker.scan()
    assert State.UNLOADING in worker.states().values()
    assert loaded == []

    def release_and_ask() -> Path:
        held.clear()
        return folder_of(worker)

    answer = while_scanning(release_and_ask, worker)
    assert loaded == [0]
    assert answer == folder_of(worker)
    assert list(worker.states().values()) == [State.AVAILABLE]


def test_unload_first_loads_once_the_old_version_is_released(worker: Worker) -> None:
    worker.begin_with("a/1", policies=UNLOAD_FIRST)
    worker.add("a/2")
    worker.scan(1)
    worker.watcher.poll()
    worker.watcher._coordinate()
    assert worker.watcher._queue.wait(10)
    assert worker.loader.loaded == ["a/1", "a/2"]


def test_request_between_two_versions_is_503_after_the_timeout(tmp_path: Path) -> None:
    worker = Worker(tmp_path / "models", registry=Registry(timeout_seconds=0))
    worker.begin_with("a/1", policies=UNLOAD_FIRST)
    held = worker.registry.get("a")
    worker.add("a/2")
    worker.scan()
    assert worker.states() == {"a/1": State.UNLOADING, "a/2": State.START}
    assert not worker.registry.is_quick("a")
    for version in None, 2:
        with pytest.raises(Unavailable, match="a is between two versions, which takes longer than 0 s"):
            worker.registry.get("a", version)
    with pytest.raises(Unavailable, match="version 2 is START"):
        worker.registry.check_ready("a")
    with pytest.raises(NotFound):
        worker.registry.get("a", 3)
    worker.loader.errors["a/2"] = LoadError("broken")
    del held
    worker.scan()
    assert worker.states() == {"a/2": State.END}
    with pytest.raises(Unavailable, match="version 2 is END: broken"):
        worker.registry.get("a")
