"""What serves goes only when its successor answers, whichever way that takes its place."""

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
from tests.unit.service.watched import Watched, board_of

LATEST = "[default]\nversions = {latest = 1}"


@pytest.fixture
def setup(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "models")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Watched, Watched]:
    """Two worker processes, as it were, of one service; version 1 of `a` is AVAILABLE in both."""
    memory = SharedMemory()
    one, other = (Watched(tmp_path / "models", board=board_of(memory, slot)) for slot in (1, 2))
    one.add("a/1")
    for watched in (one, other) * 2:
        watched.watcher.scan()
    assert one.states() == other.states() == {"a/1": State.AVAILABLE}
    return one, other


def folder_of(setup: Watched, version: int | None = None) -> Path:
    """Where the version that answers was loaded from."""
    folder = setup.registry.get("a", version).folder
    assert folder is not None
    return folder.path


def move_list(setup: Watched) -> None:
    setup.add("a/2")
    setup.write_policies("[models.a]\nversions = [2]")


def move_label(setup: Watched) -> None:
    setup.add("a/2")
    setup.write_policies("[models.a]\nversions = []\nlabels = {stable = 2}")


def add_latest(setup: Watched) -> None:
    setup.add("a/2")
    setup.write_policies(LATEST)


def rename_version(setup: Watched) -> None:
    (setup.models / "a" / "1").rename(setup.models / "a" / "2")


def exchange_model(setup: Watched) -> None:
    setup.add(".new/2")
    (setup.models / "a").rename(setup.models / ".old")
    (setup.models / ".new").rename(setup.models / "a")


WAYS: list[Callable[[Watched], None]] = [move_list, move_label, add_latest, rename_version, exchange_model]


@pytest.mark.parametrize("change", WAYS)
def test_the_old_version_answers_until_its_successor_does_and_then_goes(
    setup: Watched, change: Callable[[Watched], None]
) -> None:
    answering: list[int] = []
    setup.add("a/1")
    setup.write_policies("[models.a.labels]\nstable = 1" if change is move_label else "")
    setup.watcher.scan()
    setup.loader.meanwhile = lambda: answering.append(setup.registry.get("a").version)
    change(setup)
    for _ in range(4):
        setup.watcher.scan()
        setup.now += MIN_ABSENT_SECONDS
        assert setup.registry.ready
        setup.registry.check_ready("a")
    assert answering == [1]
    assert setup.states() == {"a/2": State.AVAILABLE}
    assert setup.registry.get("a").version == 2


@pytest.mark.parametrize("change", WAYS)
def test_a_successor_that_fails_leaves_the_old_version_serving(
    setup: Watched, change: Callable[[Watched], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    setup.add("a/1")
    setup.write_policies("[models.a.labels]\nstable = 1" if change is move_label else "")
    setup.watcher.scan()
    setup.loader.errors["a/2"] = LoadError("broken")
    change(setup)
    for _ in range(4):
        setup.watcher.scan()
        setup.now += MIN_ABSENT_SECONDS
    assert setup.states() == {"a/1": State.AVAILABLE, "a/2": State.END}
    assert setup.registry.get("a").version == 1
    assert setup.registry.ready
    assert caplog.text.count("it answers until version 2 does in every worker process") == 1
    setup.loader.errors.clear()
    setup.now += 100
    setup.scan(3)
    assert setup.states() == {"a/2": State.AVAILABLE}


def test_a_label_stays_where_it_is_until_the_version_it_moves_to_answers(setup: Watched) -> None:
    for number in 1, 2, 3:
        setup.add(f"a/{number}")
    setup.write_policies("[models.a]\nversions = {latest = 1}\nlabels = {old = 1}")
    setup.watcher.scan()
    labelled: list[int] = []
    setup.loader.meanwhile = lambda: labelled.append(setup.registry.get("a", label="old").version)
    setup.write_policies("[models.a]\nversions = {latest = 1}\nlabels = {old = 2}")
    setup.scan(3)
    assert labelled == [1]
    assert setup.states() == {"a/2": State.AVAILABLE, "a/3": State.AVAILABLE}
    assert setup.registry.get("a", label="old").version == 2


def test_a_version_that_the_policy_names_and_that_is_not_there_yet_is_waited_for(setup: Watched) -> None:
    setup.add("a/1")
    setup.watcher.scan()
    setup.write_policies("[models.a]\nversions = [2]")
    setup.scan(3)
    assert setup.states() == {"a/1": State.AVAILABLE}
    setup.add("a/2")
    setup.scan(3)
    assert setup.states() == {"a/2": State.AVAILABLE}


def test_a_lower_number_takes_over_as_a_higher_one_does(setup: Watched) -> None:
    setup.add("a/5")
    setup.watcher.scan()
    answering: list[int] = []
    setup.loader.meanwhile = lambda: answering.append(setup.registry.get("a").version)
    exchange_model(setup)
    setup.scan_after_absence()
    assert answering == [5]
    assert setup.registry.get("a").version == 2
    setup.watcher.scan()
    assert setup.states() == {"a/2": State.AVAILABLE}


def test_the_highest_that_is_left_does_not_answer_for_a_successor_that_is_still_to_come(setup: Watched) -> None:
    for number in 1, 2:
        setup.add(f"a/{number}")
    setup.watcher.scan()
    answering: list[int] = []
    setup.loader.meanwhile = lambda: answering.append(setup.registry.get("a").version)
    shutil.rmtree(setup.models / "a" / "2")
    setup.add("a/3")
    setup.loader.errors["a/3"] = LoadError("broken")
    for _ in range(4):
        setup.watcher.scan()
        setup.now += MIN_ABSENT_SECONDS
    assert setup.registry.get("a").version == 2
    setup.loader.errors.clear()
    setup.now += 100
    setup.scan()
    assert set(answering) == {2}
    assert setup.registry.get("a").version == 3


def test_what_had_failed_before_does_not_hold_what_the_operator_takes_away(setup: Watched) -> None:
    for number in 1, 2, 3:
        setup.add(f"a/{number}")
    setup.loader.errors["a/3"] = LoadError("broken")
    setup.watcher.scan()
    shutil.rmtree(setup.models / "a" / "2")
    setup.scan_after_absence()
    assert setup.states() == {"a/1": State.AVAILABLE, "a/3": State.END}
    assert setup.registry.get("a").version == 1


def test_what_has_no_successor_goes(setup: Watched) -> None:
    setup.add("a/1")
    setup.watcher.scan()
    setup.write_policies("[models.a]\nversions = []")
    setup.scan()
    assert setup.states() == {}


def test_what_nobody_is_answered_by_goes_at_once(setup: Watched) -> None:
    for number in 1, 2:
        setup.add(f"a/{number}")
    setup.watcher.scan()
    setup.add("a/3")
    setup.write_policies("[models.a]\nversions = {latest = 2}")
    setup.watcher.scan()
    assert setup.states() == {"a/2": State.AVAILABLE, "a/3": State.START}


def test_what_is_not_there_for_a_moment_serves_on(setup: Watched) -> None:
    setup.add("a/1")
    setup.watcher.scan()
    (setup.models / "a").rename(setup.models / ".a")
    setup.scan(3)
    assert setup.registry.get("a", 1).version == 1
    (setup.models / ".a").rename(setup.models / "a")
    setup.now += MIN_ABSENT_SECONDS
    setup.watcher.scan()
    (setup.models / "a").rename(setup.models / ".a")
    setup.scan(3)
    assert setup.states() == {"a/1": State.AVAILABLE}
    assert setup.loader.loaded == ["a/1"]


def test_what_is_wanted_again_waits_for_nobody(setup: Watched) -> None:
    setup.add("a/1")
    setup.watcher.scan()
    setup.loader.errors["a/2"] = LoadError("broken")
    add_latest(setup)
    setup.scan()
    assert setup.registry.held("a") == {1: {2}}
    setup.write_policies("[models.a]\nversions = [1]")
    setup.scan()
    assert setup.states() == {"a/1": State.AVAILABLE}
    assert setup.registry.held("a") == {}


def replace(setup: Watched, name: str, content: bytes = b"new") -> Path:
    """By another folder of the same name, as a whole."""
    new = setup.add(f".new/{name}", content)
    old = setup.models / name
    old.rename(setup.models / f".old-{name.replace('/', '-')}")
    new.rename(old)
    return old


def test_another_folder_under_the_same_number_is_loaded_beside_the_old_one_and_swapped_in(setup: Watched) -> None:
    setup.add("a/1")
    setup.watcher.scan()
    before = setup.registry.get("a")
    answering = []
    setup.loader.meanwhile = lambda: answering.append((setup.registry.get("a"), setup.states()))
    replace(setup, "a/1")
    setup.watcher.scan()
    assert setup.registry.get("a") is before
    setup.watcher.scan()
    assert answering == [(before, {"a/1": State.AVAILABLE})]
    assert setup.registry.get("a") is setup.registry.get("a", 1) is not before
    setup.scan()
    assert setup.loader.loaded == ["a/1", "a/1"]
    assert setup.states() == {"a/1": State.AVAILABLE}


@pytest.mark.parametrize("link", ["models", "models/a", "models/a/1"])
def test_a_link_that_leads_elsewhere_has_what_lies_there_loaded(tmp_path: Path, link: str) -> None:
    def lead_to(revision: str) -> None:
        place = tmp_path / revision / link.removeprefix("models").strip("/")
        (draft := tmp_path / "draft").symlink_to(place.resolve())
        draft.rename(tmp_path / link)

    for revision in "one", "two":
        (folder := tmp_path / revision / "a" / "1").mkdir(parents=True)
        (folder / "saved_model.pb").write_bytes(b"graph")
    (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
    lead_to("one")
    setup = Watched(tmp_path / "models")
    setup.watcher.scan()
    assert folder_of(setup) == tmp_path / "one" / "a" / "1"
    lead_to("two")
    setup.scan()
    assert folder_of(setup) == tmp_path / "two" / "a" / "1"


def test_the_same_folder_under_another_name_of_the_models_folder_is_not_loaded_again(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    setup = Watched(tmp_path / "models")
    setup.add("a/1")
    setup.watcher.scan()
    (tmp_path / "models").rename(tmp_path / "elsewhere")
    (tmp_path / "models").symlink_to(tmp_path / "elsewhere")
    setup.scan(3)
    assert setup.loader.loaded == ["a/1"]


def test_what_is_taken_away_and_made_anew_between_two_looks_is_loaded_anew(setup: Watched) -> None:
    """A file system gives the number of a folder that is gone to the next one."""
    folder = setup.add("a/1")
    setup.watcher.scan()
    before = setup.registry.get("a")
    shutil.rmtree(folder)
    setup.add("a/1")
    setup.scan()
    assert setup.registry.get("a") is not before


def test_what_changes_within_the_folder_of_a_loaded_version_is_not_loaded(setup: Watched) -> None:
    folder = setup.add("a/1")
    setup.watcher.scan()
    (folder / "saved_model.pb").unlink()
    setup.add("a/1", b"edited")
    setup.scan(3)
    assert setup.loader.loaded == ["a/1"]


def test_another_folder_that_cannot_be_loaded_leaves_the_old_one_serving_and_says_why(setup: Watched) -> None:
    setup.add("a/1")
    setup.watcher.scan()
    before = setup.registry.get("a")
    setup.loader.errors["a/1"] = LoadError("broken")
    replace(setup, "a/1")
    for _ in range(3):
        setup.watcher.scan()
        setup.now += 0.4
    status = setup.registry.statuses()["a"][1]
    assert status.state is State.AVAILABLE
    assert status.error.startswith("broken (tried once; next at ")
    assert setup.registry.get("a") is before
    setup.registry.check_ready("a")
    assert setup.failures == [("a", 1)]
    setup.loader.errors.clear()
    setup.add("a/1", b"mended")
    setup.scan()
    assert setup.registry.get("a") is not before
    assert setup.registry.statuses()["a"][1].error == ""


def test_a_folder_that_is_put_back_is_not_loaded_again_and_its_rival_is_forgotten(setup: Watched) -> None:
    folder = setup.add("a/1")
    setup.watcher.scan()
    before = setup.registry.get("a")
    setup.loader.errors["a/1"] = LoadError("broken")
    replace(setup, "a/1")
    setup.scan()
    folder.rename(setup.models / ".broken")
    (setup.models / ".old-a-1").rename(folder)
    setup.scan(3)
    assert setup.registry.get("a") is before
    assert setup.registry.statuses()["a"][1].error == ""
    assert setup.loader.loaded == ["a/1", "a/1"]


def test_a_folder_that_is_replaced_while_it_is_loaded_is_not_served(setup: Watched) -> None:
    setup.add("a/1")
    exchanged: list[Path] = []

    def exchange() -> None:
        if not exchanged:
            exchanged.append(replace(setup, "a/1"))

    setup.loader.meanwhile = exchange
    setup.watcher.scan()
    assert setup.states() == {"a/1": State.END}
    assert "its folder was replaced while it was being loaded" in setup.registry.statuses()["a"][1].error
    setup.scan(3)
    assert setup.states() == {"a/1": State.AVAILABLE}


def test_the_old_version_goes_once_its_successor_answers_in_every_worker_process(
    pair: tuple[Watched, Watched],
) -> None:
    one, other = pair
    add_latest(one)
    one.scan(3)
    assert one.states() == {"a/1": State.AVAILABLE, "a/2": State.LOADING}
    other.scan()
    other.watcher.scan()
    assert other.states() == {"a/1": State.AVAILABLE, "a/2": State.AVAILABLE}
    assert (one.registry.get("a").version, other.registry.get("a").version) == (1, 2)
    for watched in (one, other):
        watched.watcher.scan()
    assert one.states() == other.states() == {"a/2": State.AVAILABLE}


def test_a_successor_that_fails_in_one_worker_process_leaves_the_old_version_in_all(
    pair: tuple[Watched, Watched],
) -> None:
    one, other = pair
    other.loader.errors["a/2"] = LoadError("no memory")
    add_latest(one)
    for watched in (one, other) * 4:
        watched.watcher.scan()
    assert one.states() == {"a/1": State.AVAILABLE, "a/2": State.AVAILABLE}
    assert other.states() == {"a/1": State.AVAILABLE, "a/2": State.END}
    assert (one.registry.get("a").version, other.registry.get("a").version) == (2, 1)
    # A worker process that takes the place of one that died, too.
    later = Watched(one.models, board=board_of(one.board._memory, 3))
    later.loader.errors["a/2"] = LoadError("no memory")
    later.watcher.scan()
    for watched in (one, other, later) * 2:
        watched.watcher.scan()
    assert later.registry.get("a").version == 1


def test_another_folder_under_the_same_number_is_swapped_in_once_every_worker_process_has_loaded_it(
    pair: tuple[Watched, Watched],
) -> None:
    one, other = pair
    before = one.registry.get("a")
    replace(one, "a/1")
    one.scan(4)
    assert one.registry.get("a") is before
    other.scan()
    one.watcher.scan()
    assert one.registry.get("a") is not before
    for watched in (one, other):
        assert watched.loader.loaded == ["a/1", "a/1"]
        assert watched.registry.replacements() == {}


def test_a_worker_process_that_cannot_load_another_folder_does_not_hold_up_the_others(
    pair: tuple[Watched, Watched],
) -> None:
    one, other = pair
    before = one.registry.get("a"), other.registry.get("a")
    other.loader.errors["a/1"] = LoadError("no memory")
    replace(one, "a/1")
    for watched in (one, other) * 3:
        watched.watcher.scan()
    assert one.registry.get("a") is not before[0]
    assert other.registry.get("a") is before[1]


def test_a_model_on_demand_that_is_in_use_has_its_successor_loaded_without_being_asked_for(setup: Watched) -> None:
    setup.add("a/1")
    setup.watcher.scan()
    setup.add("a/2")
    setup.write_policies("[default]\nversions = {latest = 1}\nload = 'on_demand'")
    setup.scan(3)
    assert setup.states() == {"a/2": State.AVAILABLE}


UNLOAD_FIRST = "[models.a]\nversions = {latest = 1}\nreplace = 'unload_first'"


def begin_with_unload_first(setup: Watched) -> None:
    setup.add("a/1")
    setup.write_policies(UNLOAD_FIRST)
    setup.watcher.scan()


@pytest.mark.parametrize("change", [add_latest, exchange_model, lambda setup: replace(setup, "a/1")])
def test_where_memory_is_too_small_for_both_the_old_one_goes_first(
    setup: Watched, change: Callable[[Watched], object]
) -> None:
    begin_with_unload_first(setup)
    loaded: list[int] = []
    setup.loader.meanwhile = lambda: loaded.append(len(setup.registry.loaded()))
    held = setup.registry.get("a")
    change(setup)
    setup.write_policies(UNLOAD_FIRST)
    setup.watcher.scan()
    assert setup.registry.get("a") is held, "what appears may still be being copied"
    setup.now += MIN_ABSENT_SECONDS
    setup.scan()
    assert State.UNLOADING in setup.states().values()
    assert loaded == [], "a request still runs on the old one"
    answers: list[Path] = []
    request = threading.Thread(target=lambda: answers.append(folder_of(setup)))
    request.start()
    del held
    while request.is_alive():
        setup.watcher.scan()
    assert loaded == [0]
    assert answers == [folder_of(setup)]
    assert list(setup.states().values()) == [State.AVAILABLE]


def test_the_new_version_is_loaded_as_soon_as_the_old_one_is_out_of_memory(setup: Watched) -> None:
    begin_with_unload_first(setup)
    setup.add("a/2")
    setup.scan(1)
    setup.watcher.poll()
    setup.watcher._coordinate()
    assert setup.watcher._queue.wait(10)
    assert setup.loader.loaded == ["a/1", "a/2"]


def test_between_two_versions_who_waits_too_long_is_told_to_come_again(tmp_path: Path) -> None:
    setup = Watched(tmp_path / "models", registry=Registry(timeout_seconds=0))
    begin_with_unload_first(setup)
    held = setup.registry.get("a")
    setup.add("a/2")
    setup.scan()
    assert setup.states() == {"a/1": State.UNLOADING, "a/2": State.START}
    assert not setup.registry.is_quick("a")
    for version in None, 2:
        with pytest.raises(Unavailable, match="a is between two versions, which takes longer than 0 s"):
            setup.registry.get("a", version)
    with pytest.raises(Unavailable, match="version 2 is START"):
        setup.registry.check_ready("a")
    with pytest.raises(NotFound):
        setup.registry.get("a", 3)
    setup.loader.errors["a/2"] = LoadError("broken")
    del held
    setup.scan()
    assert setup.states() == {"a/2": State.END}
    with pytest.raises(Unavailable, match="version 2 is END: broken"):
        setup.registry.get("a")
