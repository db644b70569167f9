"""What becomes of versions by policy, by failure, by command, and after their last request."""

import logging
import shutil
import threading
from pathlib import Path

import pytest

from service.engines.base import LoadError
from service.errors import InvalidRequest, NotFound, Unavailable
from service.inference.version import State
from service.lifecycle.registry import Registry
from service.lifecycle.workers import PREPARED, Report, SlowVersion
from service.runtime.shared_memory import SharedMemory
from tests.unit.service.watched import ROWS, FakeLoader, Watched, board_of

# Warmed up, and found to be quick.


@pytest.fixture
def setup(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "models")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Watched, Watched]:
    """Two worker processes, as it were, of one service; both have looked at its empty models folder."""
    memory = SharedMemory()
    one, other = (Watched(tmp_path / "models", board=board_of(memory, slot)) for slot in (1, 2))
    one.watcher.scan()
    other.watcher.scan()
    return one, other


def test_a_policy_chooses_the_versions_and_what_it_no_longer_wants_is_unloaded(setup: Watched) -> None:
    for number in range(1, 5):
        setup.add(f"a/{number}")
    setup.write_policies("[models.a]\nversions = {latest = 2}")
    setup.watcher.scan()
    assert setup.states() == {"a/3": State.AVAILABLE, "a/4": State.AVAILABLE}
    setup.write_policies("[models.a]\nversions = [1]")
    setup.scan(3)
    assert setup.states() == {"a/1": State.AVAILABLE}
    assert setup.registry.get("a").version == 1


def test_a_version_that_a_label_names_is_loaded_too(setup: Watched) -> None:
    for number in range(1, 4):
        setup.add(f"a/{number}")
    setup.write_policies("[models.a]\nversions = {latest = 1}\nlabels = {stable = 1}")
    setup.watcher.scan()
    assert setup.states() == {"a/1": State.AVAILABLE, "a/3": State.AVAILABLE}
    assert setup.registry.get("a").version == setup.registry.get("a", label="stable").version == 1


def test_a_label_that_moves_takes_the_requests_with_it(setup: Watched) -> None:
    setup.add("a/1")
    setup.add("a/2")
    setup.write_policies("[models.a.labels]\nstable = 1")
    setup.watcher.scan()
    assert setup.registry.get("a").version == 1
    setup.write_policies("[models.a.labels]\nstable = 2")
    setup.watcher.scan()
    assert setup.registry.get("a").version == 2


def test_a_bad_policy_file_changes_nothing_and_is_reported_once(
    setup: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    setup.add("a/1")
    setup.add("a/2")
    setup.write_policies("[models.a.labels]\nstable = 1")
    setup.watcher.scan()
    setup.write_policies("[models.a.labels]\nstable = 'two'")
    for _ in range(3):
        setup.watcher.scan()
    assert setup.registry.get("a").version == 1
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "models.toml: Expected `int | object`, got `str`" in record.message
    assert "what it said before goes on to count" in record.message


def test_a_change_of_the_batching_makes_new_batchers_for_the_same_engine(setup: Watched) -> None:
    setup.add("a/1")
    setup.watcher.scan()
    before = setup.registry.get("a")
    setup.write_policies("[models.a.batching]\nmax_batch_size = 2")
    setup.watcher.scan()
    after = setup.registry.get("a")
    assert after.engine is before.engine
    assert after.batcher is not before.batcher
    assert setup.loader.loaded == ["a/1"]


def test_a_failed_version_is_tried_again_after_growing_pauses(setup: Watched) -> None:
    setup.add("a/1")
    setup.loader.errors["a/1"] = LoadError("broken")
    tries = []
    for second in range(40):
        setup.now = float(second)
        setup.watcher.scan()
        tries.append(len(setup.loader.loaded))
    assert [second for second in range(1, 40) if tries[second] > tries[second - 1]] == [1, 3, 7, 15, 31]
    assert "broken (tried 6 times; next at " in setup.registry.statuses()["a"][1].error
    assert setup.failures == [("a", 1)] * 6
    setup.loader.errors.clear()
    setup.now = 63.0
    setup.watcher.scan()
    assert setup.states() == {"a/1": State.AVAILABLE}


def test_a_version_is_unloading_until_the_last_request_that_holds_it_is_done(setup: Watched) -> None:
    folder = setup.add("a/1")
    setup.watcher.scan()
    held = setup.registry.get("a")
    shutil.rmtree(folder)
    setup.scan_after_absence()
    assert setup.states() == {"a/1": State.UNLOADING}
    with pytest.raises(NotFound, match="version 1 is UNLOADING"):
        setup.registry.get("a", 1)
    assert held.engine.signatures
    del held
    setup.watcher.scan()
    assert setup.states() == {}


def test_what_comes_back_while_the_old_one_is_unloading_waits_for_its_end(setup: Watched) -> None:
    folder = setup.add("a/1")
    setup.watcher.scan()
    held = setup.registry.get("a")
    shutil.rmtree(folder)
    setup.scan_after_absence()
    setup.add("a/1")
    setup.scan()
    assert setup.states() == {"a/1": State.UNLOADING}
    del held
    setup.scan()
    assert setup.states() == {"a/1": State.AVAILABLE}
    assert setup.loader.loaded == ["a/1", "a/1"]


def test_a_version_that_vanishes_while_it_is_loaded_is_not_served(setup: Watched) -> None:
    folder = setup.add("a/1")
    setup.add("b/1")

    def vanish() -> None:
        if folder.exists():
            shutil.rmtree(folder)
            setup.watcher.poll()

    setup.loader.meanwhile = vanish
    setup.watcher.scan()
    assert setup.states() == {"b/1": State.AVAILABLE}


def test_a_model_on_demand_is_loaded_by_its_first_request(setup: Watched) -> None:
    setup.add("a/1")
    setup.add("b/1")
    setup.write_policies("[models.a]\nload = 'on_demand'")
    setup.watcher.scan()
    assert setup.states() == {"a/1": State.START, "b/1": State.AVAILABLE}
    assert setup.registry.ready
    assert not setup.registry.is_quick("a")
    answers: list[int] = []
    request = threading.Thread(target=lambda: answers.append(setup.registry.get("a").version))
    request.start()
    while request.is_alive():
        setup.watcher.scan()
    assert answers == [1]
    assert setup.states() == {"a/1": State.AVAILABLE, "b/1": State.AVAILABLE}


def test_a_model_on_demand_that_takes_too_long_is_unavailable_for_now(tmp_path: Path) -> None:
    setup = Watched(tmp_path / "models", registry=Registry(timeout_seconds=0))
    setup.add("a/1")
    setup.write_policies("[default]\nload = 'on_demand'")
    setup.watcher.scan()
    with pytest.raises(Unavailable, match="a is loaded on demand, which takes longer than 0 s"):
        setup.registry.get("a")
    for _ in range(2):
        setup.watcher.scan()
    assert setup.registry.get("a").version == 1


def test_a_model_on_demand_that_cannot_be_loaded_says_why(setup: Watched) -> None:
    setup.add("a/1")
    setup.loader.errors["a/1"] = LoadError("broken")
    setup.write_policies("[default]\nload = 'on_demand'")
    setup.watcher.scan()
    raised: list[Exception] = []

    def ask() -> None:
        try:
            setup.registry.get("a")
        except NotFound as error:
            raised.append(error)

    request = threading.Thread(target=ask)
    request.start()
    while request.is_alive():
        setup.watcher.scan()
    assert "version 1 is END: broken (tried once" in str(raised[0])


def command(setup: Watched, name: str, others: tuple[Watched, ...] = ()) -> Exception | None:
    """Gives it while the watchers do their work; what it raised."""
    raised: list[Exception] = []

    def call() -> None:
        try:
            getattr(setup.watcher, name)("a")
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    while thread.is_alive():
        for watched in (setup, *others):
            watched.watcher.scan()
    return raised[0] if raised else None


def test_unload_and_load_work_in_every_worker(pair: tuple[Watched, Watched]) -> None:
    one, other = pair
    one.add("a/1")
    for watched in (one, other) * 3:
        watched.watcher.scan()
    assert one.states() == other.states() == {"a/1": State.AVAILABLE}
    assert command(one, "unload", (other,)) is None
    assert one.states() == other.states() == {"a/1": State.END}
    assert other.registry.ready
    for watched in (one, other):
        watched.watcher.scan()
    assert one.states() == {"a/1": State.END}
    assert command(other, "load", (one,)) is None
    assert one.states() == other.states() == {"a/1": State.AVAILABLE}


def test_a_worker_that_begins_later_leaves_unloaded_what_clients_unloaded(pair: tuple[Watched, Watched]) -> None:
    one, other = pair
    one.add("a/1")
    for watched in (one, other) * 3:
        watched.watcher.scan()
    assert command(one, "unload", (other,)) is None
    later = Watched(one.models, board=board_of(one.board._memory, 3))
    later.watcher.scan()
    assert later.states() == {"a/1": State.END}
    assert later.loader.loaded == []


def test_what_appears_in_an_unloaded_model_stays_unloaded(setup: Watched) -> None:
    setup.add("a/1")
    setup.watcher.scan()
    assert command(setup, "unload") is None
    setup.add("a/2")
    for _ in range(3):
        setup.watcher.scan()
    assert setup.states() == {"a/1": State.END, "a/2": State.END}


def test_an_unloaded_model_on_demand_waits_for_its_next_request(setup: Watched) -> None:
    setup.add("a/1")
    setup.write_policies("[default]\nload = 'on_demand'")
    setup.watcher.scan()
    assert command(setup, "load") is None
    assert setup.states() == {"a/1": State.AVAILABLE}
    assert command(setup, "unload") is None
    assert setup.states() == {"a/1": State.START}


def test_load_says_why_a_version_cannot_be_loaded(setup: Watched) -> None:
    setup.add("a/1")
    setup.loader.errors["a/1"] = LoadError("broken")
    setup.watcher.scan()
    error = command(setup, "load")
    assert isinstance(error, InvalidRequest)
    assert str(error).startswith("a cannot be loaded: version 1: broken (tried once")
    assert setup.loader.loaded == ["a/1", "a/1"]


def test_a_version_that_two_looks_found_due_is_tried_once(setup: Watched) -> None:
    setup.add("a/1")
    setup.loader.errors["a/1"] = LoadError("broken")
    setup.watcher.scan()
    setup.watcher._load(("a", 1))
    assert setup.loader.loaded == ["a/1"]


def test_load_fails_where_another_worker_fails(pair: tuple[Watched, Watched]) -> None:
    one, other = pair
    one.add("a/1")
    other.loader.errors["a/1"] = LoadError("no memory")
    for watched in (one, other) * 3:
        watched.watcher.scan()
    error = command(one, "load", (other,))
    assert str(error) == "a cannot be loaded: version 1: not by every worker process; the log says why"


@pytest.mark.parametrize("name", ["load", "unload"])
def test_a_command_for_an_unknown_model_is_refused(setup: Watched, name: str) -> None:
    setup.watcher.scan()
    with pytest.raises(NotFound, match="no such model: nowhere"):
        getattr(setup.watcher, name)("nowhere")


def test_a_command_that_takes_too_long_says_so_and_goes_on(tmp_path: Path) -> None:
    setup = Watched(tmp_path / "models", timeout_seconds=0)
    setup.add("a/1")
    setup.watcher.scan()
    held = setup.registry.get("a")
    with pytest.raises(Unavailable, match="to unload a takes longer than 0 s; it goes on"):
        setup.watcher.unload("a")
    del held
    setup.watcher.scan()
    assert setup.states() == {"a/1": State.END}


def test_a_version_is_available_once_every_worker_has_loaded_it(pair: tuple[Watched, Watched]) -> None:
    one, other = pair
    one.add("a/1")
    for watched in (one, other) * 3:
        watched.watcher.scan()
    one.add("a/2")
    for _ in range(3):
        one.watcher.scan()
    assert one.states() == {"a/1": State.AVAILABLE, "a/2": State.LOADING}
    assert one.registry.get("a").version == 1
    assert one.registry.get("a", 2).version == 2
    for watched in (other, other, one):
        watched.watcher.scan()
    assert one.states() == other.states() == {"a/1": State.AVAILABLE, "a/2": State.AVAILABLE}
    assert one.registry.get("a").version == other.registry.get("a").version == 2


def test_a_worker_knows_whether_another_one_serves(pair: tuple[Watched, Watched]) -> None:
    one, other = pair
    for watched in pair:
        watched.registry.first_scan_done.clear()
        watched.agreement.publish()
    assert not other.agreement.others_serve()
    one.watcher.scan()
    one.agreement.publish()
    assert other.agreement.others_serve()
    assert not one.agreement.others_serve()


def test_a_worker_that_could_not_load_a_version_does_not_hold_it_up_in_the_others(
    pair: tuple[Watched, Watched],
) -> None:
    one, other = pair
    one.add("a/1")
    one.add("a/2")
    other.loader.errors["a/2"] = LoadError("no memory")
    for watched in (one, other) * 3:
        watched.watcher.scan()
    assert one.states() == {"a/1": State.AVAILABLE, "a/2": State.AVAILABLE}
    assert other.states() == {"a/1": State.AVAILABLE, "a/2": State.END}
    assert other.registry.get("a").version == 1


def test_at_the_start_a_stuck_worker_does_not_hold_up_the_others_for_ever(tmp_path: Path) -> None:
    memory = SharedMemory()
    board_of(memory, 1).publish(Report())
    one = Watched(tmp_path / "models", board=board_of(memory, 2), timeout_seconds=0)
    one.add("a/1")
    one.watcher.scan()
    assert one.registry.first_scan_done.is_set()
    assert one.states() == {"a/1": State.LOADING}
    assert one.registry.get("a").version == 1, "there is no better version, and this one is loaded here"
    board_of(memory, 1).publish(Report({"a": {1: PREPARED}}))
    one.watcher.scan()
    assert one.states() == {"a/1": State.AVAILABLE}


def test_what_held_up_one_workers_event_loop_is_run_by_threads_in_all_of_them(pair: tuple[Watched, Watched]) -> None:
    for name in ("a/1", "a/2"):
        pair[0].add_quick(name)
    for worker in pair:
        worker.loader.signature = ROWS
    for worker in (*pair, *pair):
        worker.watcher.scan()
    assert all(worker.registry.is_quick("a") for worker in pair)
    pair[0].agreement.keep_off_loops("a", 1)
    for worker in pair:
        worker.watcher.scan()
        assert not worker.registry.is_quick("a")
        assert [worker.registry.get("a", version).pace.is_quick for version in (1, 2)] == [False, True]
        worker.write_policies("[models.a]\nbatching = {max_batch_size = 4}")
        worker.watcher.scan()
        assert not worker.registry.get("a", 1).pace.is_quick


def test_a_worker_that_takes_anothers_place_never_runs_it_on_its_event_loop(tmp_path: Path) -> None:
    memory = SharedMemory()
    board_of(memory, 1).add_slow(SlowVersion("a", 1))
    successor = Watched(tmp_path / "models", board=board_of(memory, 2), loader=FakeLoader(signature=ROWS))
    for name in ("a/1", "b/1"):
        successor.add_quick(name)
    successor.watcher.scan()
    assert [successor.registry.is_quick(model) for model in ("a", "b")] == [False, True]
