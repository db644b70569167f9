import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from service.engines.base import LoadError
from service.errors import NotFound, Unavailable
from service.inference.version import State
from service.lifecycle.registry import Registry
from service.lifecycle.succession import MIN_ABSENT_SECONDS
from service.runtime.shared_memory import SharedMemory
from tests.unit.service.lifecycle.worker import Worker, board_of

LATEST = "[default]\nversions = {latest = 1}"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Worker, Worker]:
    """Two worker processes; version 1 of `a` is AVAILABLE in both."""
    memory = SharedMemory()
    one, other = (Worker(tmp_path / "models", board=board_of(memory, slot)) for slot in (1, 2))
    one.add("a/1")
    for worker in (one, other) * 2:
        worker.watcher.scan()
    assert one.states() == other.states() == {"a/1": State.AVAILABLE}
    return one, other


def folder_of(worker: Worker, version: int | None = None) -> Path:
    """The folder that the answering version was loaded from."""
    folder = worker.registry.get("a", version).folder
    assert folder is not None
    return folder.path


def move_list(worker: Worker) -> None:
    worker.add("a/2")
    worker.write_policies("[models.a]\nversions = [2]")


def move_label(worker: Worker) -> None:
    worker.add("a/2")
    worker.write_policies("[models.a]\nversions = []\nlabels = {stable = 2}")


def add_latest(worker: Worker) -> None:
    worker.add("a/2")
    worker.write_policies(LATEST)


def rename_version(worker: Worker) -> None:
    (worker.models / "a" / "1").rename(worker.models / "a" / "2")


def exchange_model(worker: Worker) -> None:
    worker.add(".new/2")
    (worker.models / "a").rename(worker.models / ".old")
    (worker.models / ".new").rename(worker.models / "a")


WAYS: list[Callable[[Worker], None]] = [move_list, move_label, add_latest, rename_version, exchange_model]


@pytest.mark.parametrize("change", WAYS)
def test_old_version_answers_until_its_successor_does(worker: Worker, change: Callable[[Worker], None]) -> None:
    answering: list[int] = []
    worker.add("a/1")
    worker.write_policies("[models.a.labels]\nstable = 1" if change is move_label else "")
    worker.watcher.scan()
    worker.loader.meanwhile = lambda: answering.append(worker.registry.get("a").version)
    change(worker)
    for _ in range(4):
        worker.watcher.scan()
        worker.now += MIN_ABSENT_SECONDS
        assert worker.registry.ready
        worker.registry.check_ready("a")
    assert answering == [1]
    assert worker.states() == {"a/2": State.AVAILABLE}
    assert worker.registry.get("a").version == 2


@pytest.mark.parametrize("change", WAYS)
def test_failed_successor_leaves_the_old_version_serving(
    worker: Worker, change: Callable[[Worker], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    worker.add("a/1")
    worker.write_policies("[models.a.labels]\nstable = 1" if change is move_label else "")
    worker.watcher.scan()
    worker.loader.errors["a/2"] = LoadError("broken")
    change(worker)
    for _ in range(4):
        worker.watcher.scan()
        worker.now += MIN_ABSENT_SECONDS
    assert worker.states() == {"a/1": State.AVAILABLE, "a/2": State.END}
    assert worker.registry.get("a").version == 1
    assert worker.registry.ready
    assert caplog.text.count("it answers until version 2 does in every worker process") == 1
    worker.loader.errors.clear()
    worker.now += 100
    worker.scan(3)
    assert worker.states() == {"a/2": State.AVAILABLE}


def test_label_stays_until_its_new_version_answers(worker: Worker) -> None:
    for number in 1, 2, 3:
        worker.add(f"a/{number}")
    worker.write_policies("[models.a]\nversions = {latest = 1}\nlabels = {old = 1}")
    worker.watcher.scan()
    labelled: list[int] = []
    worker.loader.meanwhile = lambda: labelled.append(worker.registry.get("a", label="old").version)
    worker.write_policies("[models.a]\nversions = {latest = 1}\nlabels = {old = 2}")
    worker.scan(3)
    assert labelled == [1]
    assert worker.states() == {"a/2": State.AVAILABLE, "a/3": State.AVAILABLE}
    assert worker.registry.get("a", label="old").version == 2


def test_named_version_may_appear_later(worker: Worker) -> None:
    worker.add("a/1")
    worker.watcher.scan()
    worker.write_policies("[models.a]\nversions = [2]")
    worker.scan(3)
    assert worker.states() == {"a/1": State.AVAILABLE}
    worker.add("a/2")
    worker.scan(3)
    assert worker.states() == {"a/2": State.AVAILABLE}


def test_lower_number_may_succeed(worker: Worker) -> None:
    worker.add("a/5")
    worker.watcher.scan()
    answering: list[int] = []
    worker.loader.meanwhile = lambda: answering.append(worker.registry.get("a").version)
    exchange_model(worker)
    worker.scan_after_absence()
    assert answering == [5]
    assert worker.registry.get("a").version == 2
    worker.watcher.scan()
    assert worker.states() == {"a/2": State.AVAILABLE}


def test_remaining_version_does_not_answer_for_a_new_successor(worker: Worker) -> None:
    for number in 1, 2:
        worker.add(f"a/{number}")
    worker.watcher.scan()
    answering: list[int] = []
    worker.loader.meanwhile = lambda: answering.append(worker.registry.get("a").version)
    shutil.rmtree(worker.models / "a" / "2")
    worker.add("a/3")
    worker.loader.errors["a/3"] = LoadError("broken")
    for _ in range(4):
        worker.watcher.scan()
        worker.now += MIN_ABSENT_SECONDS
    assert worker.registry.get("a").version == 2
    worker.loader.errors.clear()
    worker.now += 100
    worker.scan()
    assert set(answering) == {2}
    assert worker.registry.get("a").version == 3


def test_version_that_failed_before_holds_nothing(worker: Worker) -> None:
    for number in 1, 2, 3:
        worker.add(f"a/{number}")
    worker.loader.errors["a/3"] = LoadError("broken")
    worker.watcher.scan()
    shutil.rmtree(worker.models / "a" / "2")
    worker.scan_after_absence()
    assert worker.states() == {"a/1": State.AVAILABLE, "a/3": State.END}
    assert worker.registry.get("a").version == 1


def test_version_without_successor_is_unloaded(worker: Worker) -> None:
    worker.add("a/1")
    worker.watcher.scan()
    worker.write_policies("[models.a]\nversions = []")
    worker.scan()
    assert worker.states() == {}


def test_unwanted_version_that_does_not_answer_is_unloaded_at_once(worker: Worker) -> None:
    for number in 1, 2:
        worker.add(f"a/{number}")
    worker.watcher.scan()
    worker.add("a/3")
    worker.write_policies("[models.a]\nversions = {latest = 2}")
    worker.watcher.scan()
    assert worker.states() == {"a/2": State.AVAILABLE, "a/3": State.START}


def test_briefly_missing_version_goes_on_serving(worker: Worker) -> None:
    worker.add("a/1")
    worker.watcher.scan()
    (worker.models / "a").rename(worker.models / ".a")
    worker.scan(3)
    assert worker.registry.get("a", 1).version == 1
    (worker.models / ".a").rename(worker.models / "a")
    worker.now += MIN_ABSENT_SECONDS
    worker.watcher.scan()
    (worker.models / "a").rename(worker.models / ".a")
    worker.scan(3)
    assert worker.states() == {"a/1": State.AVAILABLE}
    assert worker.loader.loaded == ["a/1"]


def test_version_that_is_wanted_again_is_not_held(worker: Worker) -> None:
    worker.add("a/1")
    worker.watcher.scan()
    worker.loader.errors["a/2"] = LoadError("broken")
    add_latest(worker)
    worker.scan()
    assert worker.registry.held("a") == {1: {2}}
    worker.write_policies("[models.a]\nversions = [1]")
    worker.scan()
    assert worker.states() == {"a/1": State.AVAILABLE}
    assert worker.registry.held("a") == {}


def replace(worker: Worker, name: str, content: bytes = b"new") -> Path:
    """With another folder of the same name."""
    new = worker.add(f".new/{name}", content)
    old = worker.models / name
    old.rename(worker.models / f".old-{name.replace('/', '-')}")
    new.rename(old)
    return old


def test_replaced_folder_is_loaded_and_swapped_in(worker: Worker) -> None:
    worker.add("a/1")
    worker.watcher.scan()
    before = worker.registry.get("a")
    answering = []
    worker.loader.meanwhile = lambda: answering.append((worker.registry.get("a"), worker.states()))
    replace(worker, "a/1")
    worker.watcher.scan()
    assert worker.registry.get("a") is before
    worker.watcher.scan()
    assert answering == [(before, {"a/1": State.AVAILABLE})]
    assert worker.registry.get("a") is worker.registry.get("a", 1) is not before
    worker.scan()
    assert worker.loader.loaded == ["a/1", "a/1"]
    assert worker.states() == {"a/1": State.AVAILABLE}


@pytest.mark.parametrize("link", ["models", "models/a", "models/a/1"])
def test_changed_link_is_loaded(tmp_path: Path, link: str) -> None:
    def lead_to(revision: str) -> None:
        place = tmp_path / revision / link.removeprefix("models").strip("/")
        (draft := tmp_path / "draft").symlink_to(place.resolve())
        draft.rename(tmp_path / link)

    for revision in "one", "two":
        (folder := tmp_path / revision / "a" / "1").mkdir(parents=True)
        (folder / "saved_model.pb").write_bytes(b"graph")
    (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
    lead_to("one")
    worker = Worker(tmp_path / "models")
    worker.watcher.scan()
    assert folder_of(worker) == tmp_path / "one" / "a" / "1"
    lead_to("two")
    worker.scan()
    assert folder_of(worker) == tmp_path / "two" / "a" / "1"


def test_moved_models_folder_is_not_loaded_again(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    worker = Worker(tmp_path / "models")
    worker.add("a/1")
    worker.watcher.scan()
    (tmp_path / "models").rename(tmp_path / "elsewhere")
    (tmp_path / "models").symlink_to(tmp_path / "elsewhere")
    worker.scan(3)
    assert worker.loader.loaded == ["a/1"]


def test_folder_recreated_between_polls_is_loaded(worker: Worker) -> None:
    """The file system reuses the inode number."""
    folder = worker.add("a/1")
    worker.watcher.scan()
    before = worker.registry.get("a")
    shutil.rmtree(folder)
    worker.add("a/1")
    worker.scan()
    assert worker.registry.get("a") is not before


def test_failed_replacement_leaves_the_old_folder_serving(worker: Worker) -> None:
    worker.add("a/1")
    worker.watcher.scan()
    before = worker.registry.get("a")
    worker.loader.errors["a/1"] = LoadError("broken")
    replace(worker, "a/1")
    for _ in range(3):
        worker.watcher.scan()
        worker.now += 0.4
    status = worker.registry.statuses()["a"][1]
    assert status.state is State.AVAILABLE
    assert status.error.startswith("broken (tried once; next at ")
    assert worker.registry.get("a") is before
    worker.registry.check_ready("a")
    assert worker.failures == [("a", 1)]
    worker.loader.errors.clear()
    worker.add("a/1", b"mended")
    worker.scan()
    assert worker.registry.get("a") is not before
    assert worker.registry.statuses()["a"][1].error == ""


def test_folder_that_is_put_back_is_not_loaded_again(worker: Worker) -> None:
    folder = worker.add("a/1")
    worker.watcher.scan()
    before = worker.registry.get("a")
    worker.loader.errors["a/1"] = LoadError("broken")
    replace(worker, "a/1")
    worker.scan()
    folder.rename(worker.models / ".broken")
    (worker.models / ".old-a-1").rename(folder)
    worker.scan(3)
    assert worker.registry.get("a") is before
    assert worker.registry.statuses()["a"][1].error == ""
    assert worker.loader.loaded == ["a/1", "a/1"]


def test_folder_replaced_while_loading_is_not_served(worker: Worker) -> None:
    worker.add("a/1")
    exchanged: list[Path] = []

    def exchange() -> None:
        if not exchanged:
            exchanged.append(replace(worker, "a/1"))

    worker.loader.meanwhile = exchange
    worker.watcher.scan()
    assert worker.states() == {"a/1": State.END}
    assert "its folder was replaced while it was being loaded" in worker.registry.statuses()["a"][1].error
    worker.scan(3)
    assert worker.states() == {"a/1": State.AVAILABLE}


def test_old_version_stays_until_every_worker_has_its_successor(pair: tuple[Worker, Worker]) -> None:
    one, other = pair
    add_latest(one)
    one.scan(3)
    assert one.states() == {"a/1": State.AVAILABLE, "a/2": State.LOADING}
    other.scan()
    other.watcher.scan()
    assert other.states() == {"a/1": State.AVAILABLE, "a/2": State.AVAILABLE}
    assert (one.registry.get("a").version, other.registry.get("a").version) == (1, 2)
    for worker in (one, other):
        worker.watcher.scan()
    assert one.states() == other.states() == {"a/2": State.AVAILABLE}


def test_successor_that_fails_in_one_worker_leaves_the_old_version_in_all(pair: tuple[Worker, Worker]) -> None:
    one, other = pair
    other.loader.errors["a/2"] = LoadError("no memory")
    add_latest(one)
    for worker in (one, other) * 4:
        worker.watcher.scan()
    assert one.states() == {"a/1": State.AVAILABLE, "a/2": State.AVAILABLE}
    assert other.states() == {"a/1": State.AVAILABLE, "a/2": State.END}
    assert (one.registry.get("a").version, other.registry.get("a").version) == (2, 1)
    # Also in a worker process that starts later.
    later = Worker(one.models, board=board_of(one.board._memory, 3))
    later.loader.errors["a/2"] = LoadError("no memory")
    later.watcher.scan()
    for worker in (one, other, later) * 2:
        worker.watcher.scan()
    assert later.registry.get("a").version == 1


def test_replacement_is_swapped_in_once_every_worker_has_loaded_it(pair: tuple[Worker, Worker]) -> None:
    one, other = pair
    before = one.registry.get("a")
    replace(one, "a/1")
    one.scan(4)
    assert one.registry.get("a") is before
    other.scan()
    one.watcher.scan()
    assert one.registry.get("a") is not before
    for worker in (one, other):
        assert worker.loader.loaded == ["a/1", "a/1"]
        assert worker.registry.replacements() == {}


def test_replacement_that_fails_in_one_worker_is_swapped_in_in_the_others(pair: tuple[Worker, Worker]) -> None:
    one, other = pair
    before = one.registry.get("a"), other.registry.get("a")
    other.loader.errors["a/1"] = LoadError("no memory")
    replace(one, "a/1")
    for worker in (one, other) * 3:
        worker.watcher.scan()
    assert one.registry.get("a") is not before[0]
    assert other.registry.get("a") is before[1]


def test_successor_of_a_model_on_demand_in_use_is_loaded(worker: Worker) -> None:
    worker.add("a/1")
    worker.watcher.scan()
    worker.add("a/2")
    worker.write_policies("[default]\nversions = {latest = 1}\nload = 'on_demand'")
    worker.scan(3)
    assert worker.states() == {"a/2": State.AVAILABLE}


UNLOAD_FIRST = "[models.a]\nversions = {latest = 1}\nreplace = 'unload_first'"


def begin_with_unload_first(worker: Worker) -> None:
    worker.add("a/1")
    worker.write_policies(UNLOAD_FIRST)
    worker.watcher.scan()


@pytest.mark.parametrize("change", [add_latest, exchange_model, lambda worker: replace(worker, "a/1")])
def test_unload_first(worker: Worker, change: Callable[[Worker], object]) -> None:
    begin_with_unload_first(worker)
    loaded: list[int] = []
    worker.loader.meanwhile = lambda: loaded.append(len(worker.registry.loaded()))
    held = worker.registry.get("a")
    change(worker)
    worker.write_policies(UNLOAD_FIRST)
    worker.watcher.scan()
    assert worker.registry.get("a") is held
    worker.now += MIN_ABSENT_SECONDS
    worker.scan()
    assert State.UNLOADING in worker.states().values()
    assert loaded == []
    answers: list[Path] = []
    request = threading.Thread(target=lambda: answers.append(folder_of(worker)))
    request.start()
    del held
    while request.is_alive():
        worker.watcher.scan()
    assert loaded == [0]
    assert answers == [folder_of(worker)]
    assert list(worker.states().values()) == [State.AVAILABLE]


def test_unload_first_loads_once_the_old_version_is_released(worker: Worker) -> None:
    begin_with_unload_first(worker)
    worker.add("a/2")
    worker.scan(1)
    worker.watcher.poll()
    worker.watcher._coordinate()
    assert worker.watcher._queue.wait(10)
    assert worker.loader.loaded == ["a/1", "a/2"]


def test_request_between_two_versions_is_503_after_the_timeout(tmp_path: Path) -> None:
    worker = Worker(tmp_path / "models", registry=Registry(timeout_seconds=0))
    begin_with_unload_first(worker)
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
