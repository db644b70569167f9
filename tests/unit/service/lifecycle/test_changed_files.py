"""Files of loaded versions that change in place: told once, not loaded, unless another worker process has them."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from service.engines.base import LoadError
from service.inference.version import State
from service.lifecycle.succession import MIN_CHECK_PAUSE_SECONDS
from service.runtime.shared_memory import SharedMemory
from tests.unit.service.watched import Watched, board_of

WAIT_SECONDS = 20


@pytest.fixture
def setup(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "models")


@pytest.fixture
def worker(tmp_path: Path) -> Callable[[int], Watched]:
    """Makes a worker process, as it were, of one service."""
    memory = SharedMemory()
    return lambda slot: Watched(tmp_path / "models", board=board_of(memory, slot), timeout_seconds=WAIT_SECONDS)


def poll(*setups: Watched, times: int = 3) -> None:
    """So often that what has changed has settled."""
    for _ in range(times):
        for setup in setups:
            setup.now += MIN_CHECK_PAUSE_SECONDS
            setup.watcher.scan()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if "its files have changed" in line]


def identity(setup: Watched) -> str:
    folder = setup.registry.get("a").folder
    assert folder is not None
    return folder.identity


def change_graph(version: Path) -> None:
    (version / "saved_model.pb").write_bytes(b"another graph")


def add_serving_json(version: Path) -> None:
    (version / "assets.extra").mkdir()
    (version / "assets.extra/serving.json").write_text("{}")


def remove_variables(version: Path) -> None:
    (version / "variables/variables.index").unlink()


@pytest.mark.parametrize(
    ("change", "file"),
    [
        (change_graph, "saved_model.pb"),
        (add_serving_json, "assets.extra/serving.json"),
        (remove_variables, "variables/variables.index"),
    ],
)
def test_files_that_change_in_place_are_told_of_once_and_not_loaded(
    setup: Watched, caplog: pytest.LogCaptureFixture, change: Callable[[Path], None], file: str
) -> None:
    version = setup.add("a/1")
    (version / "variables").mkdir()
    (version / "variables/variables.index").write_bytes(b"weights")
    poll(setup)
    change(version)
    poll(setup)
    poll(setup)
    (line,) = warnings(caplog)
    assert line.startswith(
        f"a version 1: its files have changed since it was loaded ('{file}'); they are not looked at"
    )
    assert setup.loader.loaded == ["a/1"]


def test_files_that_go_on_changing_are_told_of_once_they_have_settled(
    setup: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    version = setup.add("a/1")
    poll(setup)
    for size in range(4):
        (version / "saved_model.pb").write_bytes(b"x" * size)
        poll(setup, times=1)
    assert warnings(caplog) == []
    poll(setup)
    assert len(warnings(caplog)) == 1


def test_what_people_alone_look_at_may_change(setup: Watched, caplog: pytest.LogCaptureFixture) -> None:
    version = setup.add("a/1")
    poll(setup)
    (version / "assets.extra").mkdir()
    (version / "assets.extra/README.md").write_text("# Card")
    poll(setup)
    assert warnings(caplog) == []


def test_a_version_that_is_taken_away_is_not_said_to_have_changed(
    setup: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    version = setup.add("a/1")
    poll(setup)
    version.rename(setup.models / ".old")
    poll(setup)
    assert warnings(caplog) == []


def test_all_worker_processes_tell_it_once_together(
    worker: Callable[[int], Watched], caplog: pytest.LogCaptureFixture
) -> None:
    one, other = worker(1), worker(2)
    version = one.add("a/1")
    poll(one, other)
    change_graph(version)
    poll(one, other)
    assert len(warnings(caplog)) == 1


def test_a_worker_process_that_begins_with_changed_files_waits_until_the_others_have_them(
    worker: Callable[[int], Watched],
) -> None:
    one, other = worker(1), worker(2)
    version = one.add("a/1")
    poll(one, other)
    before = identity(one)
    change_graph(version)
    poll(one, other)
    late = worker(3)
    is_loading = threading.Event()
    late.loader.meanwhile = is_loading.set
    begins = threading.Thread(target=late.watcher.scan)
    begins.start()
    assert is_loading.wait(WAIT_SECONDS)
    # It does not say that it serves, so that its server lets the others answer.
    assert not late.registry.first_scan_done.is_set()
    assert identity(one) == identity(other) == before
    while begins.is_alive():
        poll(one, other, times=1)
    poll(one, other, late)
    assert one.states() == other.states() == late.states() == {"a/1": State.AVAILABLE}
    assert identity(one) == identity(other) == identity(late) != before
    assert one.loader.loaded == other.loader.loaded == ["a/1", "a/1"]


def test_changed_files_that_cannot_be_loaded_leave_the_others_serving_and_say_why(
    worker: Callable[[int], Watched],
) -> None:
    one, late = worker(1), worker(2)
    version = one.add("a/1")
    poll(one)
    before = identity(one)
    change_graph(version)
    poll(one)
    for setup in (one, late):
        setup.loader.errors["a/1"] = LoadError("half of it is missing")
    late.watcher.scan()
    assert late.states() == {"a/1": State.END}
    poll(one)
    assert identity(one) == before
    assert "half of it is missing" in one.registry.statuses()["a"][1].error
