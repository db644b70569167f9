from pathlib import Path

import pytest

from service.errors import InvalidRequest, NotFound
from service.inference.version import LoadedVersion, State, VersionStatus
from service.lifecycle.policies import ModelPolicy, decode
from service.lifecycle.registry import Registry
from service.lifecycle.traffic import successors
from tests.unit.service.fakes import any_shape, loaded_version, make_available, signature

SIGNATURE = signature({"x": any_shape("DT_FLOAT")})


class Draw:
    """What is drawn for each request, instead of a random number."""

    number = 0.5

    def __call__(self) -> float:
        return self.number


@pytest.fixture
def draw() -> Draw:
    return Draw()


@pytest.fixture
def registry(draw: Draw) -> Registry:
    registry = Registry(draw=draw)
    registry.first_scan_done.set()
    return registry


def add(registry: Registry, version: int) -> LoadedVersion:
    loaded = loaded_version(SIGNATURE, version=version)
    make_available(registry, loaded)
    return loaded


def prepare(registry: Registry, version: int) -> None:
    """Loaded in this worker process, but not in every one."""
    registry.set_status("model", version, VersionStatus(State.LOADING), loaded_version(SIGNATURE, version=version))


def label(registry: Registry, labels: str) -> None:
    registry.set_policies(decode(f"[models.model]\nlabels = {labels}".encode(), Path("models.toml")))


def policy(table: str) -> ModelPolicy:
    return decode(f"[models.model]\n{table}".encode(), Path("models.toml")).of("model")


def test_the_stable_version_answers_requests_that_name_none(registry: Registry) -> None:
    add(registry, 1)
    add(registry, 2)
    label(registry, "{stable = 1}")
    assert registry.get("model").version == 1
    assert registry.get("model", 2).version == 2


def test_a_label_answers_by_its_version_and_moves(registry: Registry) -> None:
    add(registry, 1)
    add(registry, 2)
    label(registry, "{canary = 1, other = 2}")
    assert registry.get("model", label="canary").version == 1
    assert registry.labels() == {"model": {"canary": 1, "other": 2}}
    label(registry, "{canary = 2}")
    assert registry.get("model", label="canary").version == 2
    with pytest.raises(
        InvalidRequest, match=r"Unrecognized servable version label: other; model has the labels canary"
    ):
        registry.get("model", label="other")


def test_a_label_moves_once_its_new_version_is_available(registry: Registry) -> None:
    add(registry, 1)
    prepare(registry, 2)
    label(registry, "{stable = 1}")
    label(registry, "{stable = 2}")
    assert registry.get("model").version == registry.get("model", label="stable").version == 1
    registry.make_available("model", 2)
    assert registry.get("model").version == registry.get("model", label="stable").version == 2


def test_a_label_whose_version_goes_away_is_not_found_and_says_why(registry: Registry) -> None:
    add(registry, 1)
    add(registry, 2)
    label(registry, "{stable = 1}")
    registry.set_status("model", 1, VersionStatus(State.UNLOADING))
    with pytest.raises(NotFound, match=r"Specific\(model, 1\) \(version 1 is UNLOADING\)"):
        registry.get("model", label="stable")
    assert registry.get("model").version == 2, "who names none is answered all the same"


def test_a_canary_answers_its_share_of_the_requests_that_name_no_version(registry: Registry, draw: Draw) -> None:
    add(registry, 1)
    add(registry, 2)
    label(registry, "{canary = {version = 2, share = 0.1}}")
    draw.number = 0.0999
    assert registry.get("model").version == 2
    assert registry.get("model", 1).version == 1
    draw.number = 0.1
    assert registry.get("model").version == 1
    assert registry.get("model", label="canary").version == 2


def test_a_canary_that_is_not_available_everywhere_answers_nothing(registry: Registry, draw: Draw) -> None:
    draw.number = 0.0
    add(registry, 1)
    prepare(registry, 2)
    label(registry, "{canary = {version = 2, share = 1}}")
    assert registry.get("model").version == 1
    registry.make_available("model", 2)
    assert registry.get("model").version == 2


def test_a_canary_that_became_stable_answers_all(registry: Registry, draw: Draw) -> None:
    add(registry, 1)
    add(registry, 2)
    label(registry, "{stable = 2, canary = {version = 2, share = 0.1}}")
    draw.number = 0.9
    assert registry.get("model").version == 2


def test_a_canary_that_is_left_alone_answers_all(registry: Registry, draw: Draw) -> None:
    add(registry, 2)
    label(registry, "{canary = {version = 2, share = 0.1}}")
    draw.number = 0.9
    assert registry.get("model").version == 2


def test_a_shadow_goes_with_what_answers_and_answers_nothing_itself(registry: Registry) -> None:
    one = add(registry, 1)
    three = add(registry, 3)
    label(registry, "{next = {version = 3, shadow = 0.5}}")
    answering = registry.get("model")
    assert answering.engine is one.engine
    assert answering.shadow is not None
    assert (answering.shadow.loaded, answering.shadow.share) == (three, 0.5)
    assert registry.get("model", 1).shadow is None
    assert registry.get("model", label="next").shadow is None


def test_a_canary_is_mirrored_too(registry: Registry, draw: Draw) -> None:
    for number in (1, 2, 3):
        add(registry, number)
    label(registry, "{canary = {version = 2, share = 1}, next = {version = 3, shadow = 1}}")
    answering = registry.get("model")
    assert answering.version == 2
    assert answering.shadow is not None


def test_a_shadow_that_is_left_alone_does_not_answer(registry: Registry) -> None:
    add(registry, 3)
    label(registry, "{next = {version = 3, shadow = 1}}")
    with pytest.raises(NotFound):
        registry.get("model")
    assert registry.get("model", 3).version == 3


def test_a_shadow_that_is_not_available_or_answers_already_gets_no_copies(registry: Registry) -> None:
    add(registry, 1)
    prepare(registry, 3)
    label(registry, "{next = {version = 3, shadow = 1}}")
    assert registry.get("model").shadow is None
    registry.make_available("model", 3)
    label(registry, "{stable = 3, next = {version = 3, shadow = 1}}")
    answering = registry.get("model")
    assert (answering.version, answering.shadow) == (3, None)


def test_before_anything_is_available_everywhere_the_version_that_will_answer_does(registry: Registry) -> None:
    prepare(registry, 1)
    registry.set_status("model", 2, VersionStatus(State.LOADING))
    with pytest.raises(NotFound, match="version 2 is LOADING"):
        registry.get("model")
    prepare(registry, 2)
    assert registry.get("model").version == 2
    label(registry, "{stable = 1}")
    assert registry.get("model").version == 1


def test_while_it_drains_the_service_is_not_ready(registry: Registry) -> None:
    add(registry, 1)
    assert registry.ready
    registry.draining = True
    assert not registry.ready


def test_what_is_held_answers_until_all_it_waits_for_do(registry: Registry) -> None:
    add(registry, 5)
    add(registry, 1)
    prepare(registry, 2)
    registry.hold("model", 5, frozenset({1, 2}))
    assert registry.get("model").version == 5
    registry.make_available("model", 2)
    assert registry.get("model").version == 2
    assert registry.get("model", 5).version == 5


ALL = "versions = 'all'"


@pytest.mark.parametrize(
    ("table", "wanted", "failed", "is_on_disk", "expected"),
    [
        (ALL, {3, 4}, {}, False, {4}),
        (ALL, {3, 4}, {4}, False, {3}),
        (ALL, {4}, {4}, False, {4}),
        (ALL, {}, {}, False, {}),
        # Who is only to get a share, or copies, does not answer alone, but where there is nobody else.
        ("labels = {canary = {version = 4, share = 0.1}, next = {version = 5, shadow = 1}}", {3, 4, 5}, {}, True, {3}),
        ("labels = {canary = {version = 4, share = 0.1}}", {4}, {}, True, {4}),
        ("labels = {stable = 3}", {3, 4}, {3}, True, {3}),
        # The label names what was taken away: then whoever is left answers those who name no version.
        ("labels = {stable = 2}", {4}, {}, False, {4}),
        ("versions = [7]", {}, {}, True, {7}),
        ("versions = [7]", {}, {}, False, {}),
        ("labels = {stable = 7}", {3}, {}, True, {7}),
        ("labels = {stable = 7}", {3}, {}, False, {3}),
    ],
)
def test_the_successors_of_what_answers_those_who_name_no_version(
    registry: Registry, table: str, wanted: set[int], failed: set[int], is_on_disk: bool, expected: set[int]
) -> None:
    add(registry, 2)
    traffic = registry.traffic("model")
    assert successors(policy(table), traffic, 2, {*wanted}, {*failed}, is_on_disk) == {*expected}


def test_the_successors_of_what_labels_name_are_those_that_they_will_name(registry: Registry) -> None:
    add(registry, 1)
    add(registry, 9)
    label(registry, "{stable = 9, a = 1, b = 1}")
    moved = policy("labels = {stable = 9, a = 2, b = 3}")
    traffic = registry.traffic("model")
    assert successors(moved, traffic, 1, {2, 3, 9}, {2}, False) == {2, 3}
    assert successors(moved, traffic, 1, {3, 9}, set(), False) == {3}
    assert successors(moved, traffic, 1, {3, 9}, set(), True) == {2, 3}
    assert successors(moved, traffic, 9, {2, 3}, set(), False) == {3}
