from pathlib import Path

import pytest

from benchmarks.reload import changes
from benchmarks.reload.changes import LABELLED, NEWEST, Changes, route_of
from benchmarks.reload.checks import Allowed, Answer, fault
from benchmarks.reload.versions import GRAPH, TWIN, link, make, publish, publish_broken
from benchmarks.reload.ways import LATEST, LINKED, REFILLED, UNLOADED, WAYS, Ways
from service.serving_config import read_serving_config

NAMES_NONE = route_of(LABELLED)
STABLE, CANARY = route_of(LABELLED, label="stable"), route_of(LABELLED, label="canary")


class Clients:
    def __init__(self) -> None:
        self.routes: list[str] = []

    def ask(self, route: str) -> None:
        self.routes.append(route)

    def drop(self, route: str) -> None:
        self.routes.remove(route)


@pytest.fixture
def clients() -> Clients:
    return Clients()


@pytest.fixture
def reloads(tmp_path: Path, clients: Clients, monkeypatch: pytest.MonkeyPatch) -> Changes:
    """In a service that sees at once what lies on disk, and gives up what is not whole."""
    models, made = tmp_path / "models", tmp_path / "made"
    ways = Ways(models, made)

    def states(_self: Changes, model: str) -> dict[int, str]:
        def state(version: Path) -> str:
            source = made / str(int(version.name) % 90)
            return "AVAILABLE" if all(_same(source / file, version / file) for file in (GRAPH, TWIN)) else "END"

        return {int(version.name): state(version) for version in (models / model).iterdir()}

    def answered_by(_self: Changes, way: str, number: int) -> bool:
        return ways.number(way, number) in states(_self, way)

    monkeypatch.setattr(Changes, "_states", states)
    monkeypatch.setattr(Changes, "_has_failed", answered_by)
    monkeypatch.setattr(Changes, "_is_answered_by", answered_by)
    monkeypatch.setattr(changes, "SETTLE_SECONDS", 0.0)
    for number in 1, 2, 3:
        make(number, made / str(number))
        publish_broken(made / str(number), made / f"broken-{number}", TWIN)
    (tmp_path / "revision-1").mkdir()
    link(tmp_path / "revision-1", models)
    for model in LABELLED, NEWEST:
        (models / model).mkdir(parents=True)
        publish(made / "1", models / model / "1")
    ways.begin()
    return Changes(0, ways, clients, clients)


def _same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


def test_versions_differ_in_their_twin_which_is_proved_by_its_digest(tmp_path: Path) -> None:
    two, three = make(2, tmp_path / "2"), make(3, tmp_path / "3")
    assert (two / GRAPH).read_bytes() == (three / GRAPH).read_bytes()
    assert (two / TWIN).read_bytes() != (three / TWIN).read_bytes()
    proofs = [read_serving_config(version).twin for version in (two, three)]
    assert all(proofs)
    assert proofs[0] != proofs[1]


def test_a_step_goes_from_one_version_to_the_next(reloads: Changes, clients: Clients, tmp_path: Path) -> None:
    reloads.begin()
    others = [*map(route_of, WAYS), route_of(NEWEST), STABLE, CANARY, NAMES_NONE]
    assert clients.routes == [*others, route_of(LABELLED, 1)]
    reloads.step(2)
    reloads.step(3)
    assert clients.routes == [*others, route_of(LABELLED, 3)]
    for model in LABELLED, NEWEST:
        assert [version.name for version in (tmp_path / "models" / model).iterdir()] == ["3"]
    expected = {"added": 2, "half copied": 1, "broken": 2, "switched": 4, "removed": 2, "failed successors": 12}
    assert reloads.counts == expected | dict.fromkeys(WAYS.values(), 2)
    assert "stable = 3" in (tmp_path / "models" / "models.toml").read_text()


def test_who_may_answer_follows_the_step(reloads: Changes) -> None:
    reloads.begin()
    reloads.step(2)
    history = {route: [set(versions) for _, versions in steps] for route, steps in reloads.allowed._changes.items()}
    assert history[route_of(LABELLED, 1)] == [{1}]
    assert history[route_of(LABELLED, 2)] == [{2}]
    assert history[route_of(NEWEST)] == [{1}, {1, 2}, {2}]
    # The canary moves first, then stable.
    assert history[CANARY] == [{1}, {1, 2}, {2}, {2}, {2}]
    assert history[STABLE] == [{1}, {1}, {1}, {1, 2}, {2}]
    assert history[NAMES_NONE] == [{1}, {1, 2}, {1, 2}, {1, 2}, {2}]


def test_in_every_way_one_version_takes_the_place_of_another(reloads: Changes, tmp_path: Path) -> None:
    models = tmp_path / "models"
    reloads.begin()
    reloads.step(2)
    for way in WAYS:
        (version,) = (models / way).iterdir()
        assert version.name == ("1" if way == REFILLED else "2")
        assert _same(version / TWIN, tmp_path / "made" / "2" / TWIN)
        history = [set(versions) for _, versions in reloads.allowed._changes[route_of(way)]]
        assert history == [{1}, {1, 2}, {2}]
    assert models.resolve() == tmp_path / "revision-2"
    assert not (tmp_path / "revision-1").exists()
    assert (models / LINKED).is_symlink()
    policies = (models / "models.toml").read_text()
    assert "[models.listed]\nversions = [2]" in policies
    assert "[models.moved]\nversions = []\nlabels = {stable = 2}" in policies


def test_503_is_right_only_between_two_versions_where_the_old_one_goes_first() -> None:
    allowed = Allowed({route_of(UNLOADED)})
    for way in UNLOADED, LATEST:
        for moment, versions in enumerate(({1}, {1, 2}, {2})):
            allowed.change(route_of(way), versions, moment)
    faults = {
        (way, moment): bool(fault(Answer(route_of(way), moment, moment + 0.1, 503), allowed))
        for way in (UNLOADED, LATEST)
        for moment in (0.5, 1.5, 2.5)
    }
    assert [key for key, is_wrong in faults.items() if not is_wrong] == [(UNLOADED, 1.5)]
    assert fault(Answer(route_of(UNLOADED), 1.5, 1.6, 404), allowed)


def test_a_version_that_never_comes_ends_the_run(reloads: Changes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "PATIENCE_SECONDS", -1)
    with pytest.raises(RuntimeError, match="version 9 of newest is not AVAILABLE after -1 s"):
        reloads._wait_for_available(NEWEST, 9)
