import logging
import re
import shutil
import threading
from collections.abc import Callable

import pytest

from service.engines.base import LoadError
from service.errors import NotFound, Unavailable
from service.inference.version import State
from service.lifecycle.registry import Registry
from service.lifecycle.succession import MIN_CHECK_PAUSE_SECONDS
from tests.unit.service.lifecycle.conftest import MakeWorker, Pair
from tests.unit.service.lifecycle.worker import MAX_WAIT_SECONDS, Worker, scan_in_turns, while_scanning

LATEST = "[models.a]\nversions = {latest = 1}\n"
UNLOAD_FIRST = LATEST + "replace = 'unload_first'"
BROKEN = LoadError("broken")


def add_second(worker: Worker, policies: str = LATEST) -> None:
    worker.add("a/2")
    worker.write_policies(policies)


def move_label(worker: Worker) -> None:
    add_second(worker, "[models.a]\nversions = []\nlabels = {stable = 2}")


def exchange_model(worker: Worker) -> None:
    worker.add(".new/2")
    (worker.models / "a").rename(worker.models / ".old")
    (worker.models / ".new").rename(worker.models / "a")


def replace(worker: Worker) -> None:
    """Version 1, with another folder of the same name."""
    worker.add(".new", b"new")
    swap(worker, ".old", ".new")


def swap(worker: Worker, away: str, back: str) -> None:
    (worker.models / "a/1").rename(worker.models / away)
    (worker.models / back).rename(worker.models / "a/1")


@pytest.mark.parametrize(
    ("policies", "change"),
    [
        ("", lambda worker: add_second(worker, "[models.a]\nversions = [2]")),
        ("[models.a]\nlabels = {stable = 1}", move_label),
        (LATEST, add_second),
        ("", lambda worker: (worker.models / "a/1").rename(worker.models / "a/2")),
        ("", exchange_model),
    ],
    ids=["list", "label", "latest", "renamed version", "exchanged model"],
)
def test_old_version_answers_until_its_successor_does(
    worker: Worker, caplog: pytest.LogCaptureFixture, policies: str, change: Callable[[Worker], None]
) -> None:
    caplog.set_level(logging.INFO)
    worker.begin_with("a/1", policies=policies)
    worker.errors["a/2"] = BROKEN
    answered: set[int] = set()
    worker.meanwhile = lambda: answered.add(worker.registry.get("a").version)
    change(worker)
    for _ in range(4):
        worker.scan(1, seconds=1)
        assert worker.registry.ready
        worker.registry.check_ready("a")
    assert worker.states() == {"a/1": State.AVAILABLE, "a/2": State.END}
    assert worker.registry.get("a").version == 1
    assert caplog.text.count("it answers until version 2 does in every worker process") == 1
    worker.errors.clear()
    worker.now += 100
    worker.scan(3)
    assert answered == {1}
    assert worker.states() == {"a/2": State.AVAILABLE}


def test_named_version_may_appear_later(worker: Worker) -> None:
    worker.begin_with("a/1")
    worker.write_policies("[models.a]\nversions = [2]")
    worker.scan(3)
    assert worker.states() == {"a/1": State.AVAILABLE}
    worker.add("a/2")
    worker.scan(3)
    assert worker.states() == {"a/2": State.AVAILABLE}


def test_version_that_failed_before_holds_nothing(worker: Worker) -> None:
    worker.errors["a/3"] = BROKEN
    worker.begin_with("a/1", "a/2", "a/3")
    shutil.rmtree(worker.models / "a/2")
    worker.scan(seconds=1)
    assert worker.states() == {"a/1": State.AVAILABLE, "a/3": State.END}


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
        worker.scan(1, seconds=1)
    assert worker.loaded == ["a/1"]


def test_version_that_is_wanted_again_is_not_held(worker: Worker) -> None:
    worker.begin_with("a/1")
    worker.errors["a/2"] = BROKEN
    add_second(worker)
    worker.scan()
    assert worker.registry.held("a") == {1: {2}}
    worker.write_policies("[models.a]\nversions = [1]")
    worker.scan()
    assert worker.states() == {"a/1": State.AVAILABLE}
    assert worker.registry.held("a") == {}


def test_replaced_folder_is_loaded_and_swapped_in(worker: Worker) -> None:
    worker.begin_with("a/1")
    before = worker.registry.get("a")
    answers = []
    worker.meanwhile = lambda: answers.append((worker.registry.get("a"), worker.states()))
    replace(worker)
    worker.watcher.scan()
    assert worker.registry.get("a") is before
    worker.scan(3)
    assert answers == [(before, {"a/1": State.AVAILABLE})]
    assert worker.registry.get("a") is worker.registry.get("a", 1) is not before


def test_failed_replacement_leaves_the_old_folder_serving(worker: Worker) -> None:
    worker.begin_with("a/1")
    before = worker.registry.get("a")
    worker.errors["a/1"] = BROKEN
    replace(worker)
    worker.scan(3)
    assert worker.error("a", 1).startswith("broken (tried once; next at ")
    assert worker.registry.get("a") is before
    worker.registry.check_ready("a")
    assert worker.failures == [("a", 1)]
    swap(worker, ".broken", ".old")
    worker.scan(3)
    assert worker.registry.get("a") is before
    assert worker.error("a", 1) == ""
    assert worker.loaded == ["a/1", "a/1"]
    worker.errors.clear()
    swap(worker, ".old", ".broken")
    worker.scan()
    assert worker.registry.get("a") is not before


def test_folder_replaced_while_loading_is_not_served(worker: Worker) -> None:
    def replace_once() -> None:
        worker.meanwhile = lambda: None
        replace(worker)

    worker.meanwhile = replace_once
    worker.begin_with("a/1")
    assert worker.states() == {"a/1": State.END}
    assert "its folder was replaced while it was being loaded" in worker.error("a", 1)
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


def test_successor_that_fails_in_one_worker_leaves_the_old_one(serving: Pair, new_worker: MakeWorker) -> None:
    one, other = serving
    # Also in a worker process that starts later.
    later = new_worker(3)
    for worker in (other, later):
        worker.errors["a/2"] = LoadError("no memory")
    add_second(one)
    scan_in_turns(one, other, times=4)
    scan_in_turns(later, one, other, times=2)
    assert one.states() == {"a/1": State.AVAILABLE, "a/2": State.AVAILABLE}
    assert other.states() == later.states() == {"a/1": State.AVAILABLE, "a/2": State.END}
    assert [worker.registry.get("a").version for worker in (one, other, later)] == [2, 1, 1]


def test_replacement_is_swapped_in_once_every_worker_has_tried_it(serving: Pair) -> None:
    one, other = serving
    before = one.registry.get("a"), other.registry.get("a")
    other.errors["a/1"] = LoadError("no memory")
    replace(one)
    one.scan(4)
    assert one.registry.get("a") is before[0]
    scan_in_turns(other, one, times=2)
    assert one.registry.get("a") is not before[0]
    assert other.registry.get("a") is before[1]
    assert one.loaded == other.loaded == ["a/1", "a/1"]


def test_successor_of_a_model_on_demand_in_use_is_loaded(worker: Worker) -> None:
    worker.begin_with("a/1")
    add_second(worker, LATEST + "load = 'on_demand'")
    worker.scan(3)
    assert worker.states() == {"a/2": State.AVAILABLE}


@pytest.mark.parametrize("change", [lambda worker: worker.add("a/2"), exchange_model, replace])
def test_unload_first(worker: Worker, change: Callable[[Worker], None]) -> None:
    worker.begin_with("a/1", policies=UNLOAD_FIRST)
    loaded: list[int] = []
    worker.meanwhile = lambda: loaded.append(len(worker.registry.loaded()))
    held = [worker.registry.get("a")]
    change(worker)
    worker.watcher.scan()
    assert worker.registry.get("a") is held[0]
    worker.now += 1
    worker.scan()
    assert State.UNLOADING in worker.states().values()
    assert loaded == []

    def release_and_ask() -> None:
        held.clear()
        worker.registry.get("a")

    while_scanning(release_and_ask, worker)
    assert loaded == [0]
    assert list(worker.states().values()) == [State.AVAILABLE]


def test_unload_first_loads_once_the_old_version_is_released(worker: Worker) -> None:
    worker.begin_with("a/1", policies=UNLOAD_FIRST)
    is_loading = threading.Event()
    worker.meanwhile = is_loading.set
    worker.add("a/2")
    worker.scan(2)
    assert is_loading.wait(MAX_WAIT_SECONDS)


def test_request_between_two_versions_is_503_after_the_timeout(new_worker: MakeWorker) -> None:
    worker = new_worker(1, registry=Registry(timeout_seconds=0))
    worker.begin_with("a/1", policies=UNLOAD_FIRST)
    held = worker.registry.get("a")
    worker.add("a/2")
    worker.scan()
    assert worker.states() == {"a/1": State.UNLOADING, "a/2": State.START}
    for version in None, 2:
        with pytest.raises(Unavailable, match="a is between two versions"):
            worker.registry.get("a", version)
    with pytest.raises(Unavailable, match="version 2 is START"):
        worker.registry.check_ready("a")
    with pytest.raises(NotFound):
        worker.registry.get("a", 3)
    worker.errors["a/2"] = BROKEN
    del held
    worker.scan()
    assert worker.states() == {"a/2": State.END}
    with pytest.raises(Unavailable, match="version 2 is END: broken"):
        worker.registry.get("a")


# Files that change in place.


def poll(*workers: Worker, times: int = 3) -> None:
    """Often enough for changes to settle."""
    scan_in_turns(*workers, times=times, seconds=MIN_CHECK_PAUSE_SECONDS)


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The names of the changed files, by line."""
    return re.findall(r"a version 1: its files have changed since it was loaded \((.*?)\)", caplog.text)


def identity(worker: Worker) -> str:
    folder = worker.registry.get("a").folder
    assert folder is not None
    return folder.identity


def test_changed_files_are_logged_once_and_not_loaded(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    version = worker.add("a/1")
    for folder in ("variables", "assets.extra"):
        (version / folder).mkdir()
    (version / "variables/index").write_bytes(b"weights")
    poll(worker)
    worker.add("a/1", b"another graph")
    (version / "assets.extra/serving.json").write_text("{}")
    (version / "variables/index").unlink()
    # Nothing is loaded of it.
    (version / "assets.extra/README.md").write_text("# Card")
    poll(worker, times=6)
    assert logged(caplog) == ["'assets.extra/serving.json', 'saved_model.pb', 'variables/index'"]
    assert worker.loaded == ["a/1"]


def test_changed_files_are_logged_once_settled(serving: Pair, caplog: pytest.LogCaptureFixture) -> None:
    for size in range(4):
        serving[0].add("a/1", b"x" * size)
        poll(*serving, times=1)
    assert logged(caplog) == []
    poll(*serving)
    assert len(logged(caplog)) == 1


def test_new_worker_with_changed_files_waits_for_the_others(serving: Pair, new_worker: MakeWorker) -> None:
    one, other = serving
    before = identity(one)
    one.add("a/1", b"another graph")
    poll(one, other)
    late = new_worker(3)
    is_loading = threading.Event()
    late.meanwhile = is_loading.set
    begins = threading.Thread(target=late.watcher.scan)
    begins.start()
    assert is_loading.wait(MAX_WAIT_SECONDS)
    # It is not ready yet, so that only the others answer.
    assert not late.registry.first_scan_done.is_set()
    assert identity(one) == identity(other) == before
    while begins.is_alive():
        poll(one, other, times=1)
    assert one.loaded == other.loaded == ["a/1", "a/1"]
    poll(one, other, late)
    assert one.states() == other.states() == late.states() == {"a/1": State.AVAILABLE}
    assert identity(one) == identity(other) == identity(late) != before


def test_changed_files_that_fail_leave_the_others_serving(new_worker: MakeWorker) -> None:
    one, late = new_worker(1), new_worker(2)
    one.begin_with("a/1")
    before = identity(one)
    one.add("a/1", b"another graph")
    poll(one)
    for worker in (one, late):
        worker.errors["a/1"] = LoadError("half of it is missing")
    late.watcher.scan()
    assert late.states() == {"a/1": State.END}
    poll(one)
    assert identity(one) == before
    assert "half of it is missing" in one.error("a", 1)
