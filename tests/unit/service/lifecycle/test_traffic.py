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
    """The number drawn for each request, instead of a random one."""

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
    """Loaded in this worker process, but not yet in all."""
    registry.set_status("model", version, VersionStatus(State.LOADING), loaded_version(SIGNATURE, version=version))


def label(registry: Registry, labels: str) -> None:
    registry.set_policies(decode(f"[models.model]\nlabels = {labels}".encode(), Path("models.toml")))


def policy(table: str) -> ModelPolicy:
    return decode(f"[models.model]\n{table}".encode(), Path("models.toml")).of("model")


def test_stable_version_answers(registry: Registry) -> None:
    add(registry, 1)
    add(registry, 2)
    label(registry, "{stable = 1}")
    assert registry.get("model").version == 1
    assert registry.get("model", 2).version == 2


def test_label_answers_and_moves(registry: Registry) -> None:
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


def test_label_moves_once_its_version_is_available(registry: Registry) -> None:
    add(registry, 1)
    prepare(registry, 2)
    label(registry, "{stable = 1}")
    label(registry, "{stable = 2}")
    assert registry.get("model").version == registry.get("model", label="stable").version == 1
    registry.make_available("model", 2)
    assert registry.get("model").version == registry.get("model", label="stable").version == 2


def test_label_of_an_unloading_version_is_404(registry: Registry) -> None:
    add(registry, 1)
    add(registry, 2)
    label(registry, "{stable = 1}")
    registry.set_status("model", 1, VersionStatus(State.UNLOADING))
    with pytest.raises(NotFound, match=r"Specific\(model, 1\) \(version 1 is UNLOADING\)"):
        registry.get("model", label="stable")
    assert registry.get("model").version == 2


def test_canary_answers_its_share(registry: Registry, draw: Draw) -> None:
    add(registry, 1)
    add(registry, 2)
    label(registry, "{canary = {version = 2, share = 0.1}}")
    draw.number = 0.0999
    assert registry.get("model").version == 2
    assert registry.get("model", 1).version == 1
    draw.number = 0.1
    assert registry.get("model").version == 1
    assert registry.get("model", label="canary").version == 2


def test_canary_answers_only_once_available_everywhere(registry: Registry, draw: Draw) -> None:
    draw.number = 0.0
    add(registry, 1)
    prepare(registry, 2)
    label(registry, "{canary = {version = 2, share = 1}}")
    assert registry.get("model").version == 1
    registry.make_available("model", 2)
    assert registry.get("model").version == 2


def test_canary_that_is_stable_answers_everything(registry: Registry, draw: Draw) -> None:
    add(registry, 1)
    add(registry, 2)
    label(registry, "{stable = 2, canary = {version = 2, share = 0.1}}")
    draw.number = 0.9
    assert registry.get("model").version == 2


def test_canary_alone_answers_everything(registry: Registry, draw: Draw) -> None:
    add(registry, 2)
    label(registry, "{canary = {version = 2, share = 0.1}}")
    draw.number = 0.9
    assert registry.get("model").version == 2


def test_shadow_gets_copies_and_does_not_answer(registry: Registry) -> None:
    one = add(registry, 1)
    three = add(registry, 3)
    label(registry, "{next = {version = 3, shadow = 0.5}}")
    answering = registry.get("model")
    assert answering.engine is one.engine
    assert answering.shadow is not None
    assert (answering.shadow.loaded, answering.shadow.share) == (three, 0.5)
    assert registry.get("model", 1).shadow is None
    assert registry.get("model", label="next").shadow is None


def test_shadow_gets_copies_of_canary_requests(registry: Registry, draw: Draw) -> None:
    for number in (1, 2, 3):
        add(registry, number)
    label(registry, "{canary = {version = 2, share = 1}, next = {version = 3, shadow = 1}}")
    answering = registry.get("model")
    assert answering.version == 2
    assert answering.shadow is not None


def test_shadow_alone_does_not_answer(registry: Registry) -> None:
    add(registry, 3)
    label(registry, "{next = {version = 3, shadow = 1}}")
    with pytest.raises(NotFound):
        registry.get("model")
    assert registry.get("model", 3).version == 3


def test_no_copies_for_an_unavailable_or_answering_shadow(registry: Registry) -> None:
    add(registry, 1)
    prepare(registry, 3)
    label(registry, "{next = {version = 3, shadow = 1}}")
    assert registry.get("model").shadow is None
    registry.make_available("model", 3)
    label(registry, "{stable = 3, next = {version = 3, shadow = 1}}")
    answering = registry.get("model")
    assert (answering.version, answering.shadow) == (3, None)


def test_future_default_answers_before_anything_is_available_everywhere(registry: Registry) -> None:
    prepare(registry, 1)
    registry.set_status("model", 2, VersionStatus(State.LOADING))
    with pytest.raises(NotFound, match="version 2 is LOADING"):
        registry.get("model")
    prepare(registry, 2)
    assert registry.get("model").version == 2
    label(registry, "{stable = 1}")
    assert registry.get("model").version == 1


def test_held_version_answers_until_its_successors_do(registry: Registry) -> None:
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
        # A canary or a shadow is the successor only if there is no other version.
        ("labels = {canary = {version = 4, share = 0.1}, next = {version = 5, shadow = 1}}", {3, 4, 5}, {}, True, {3}),
        ("labels = {canary = {version = 4, share = 0.1}}", {4}, {}, True, {4}),
        ("labels = {stable = 3}", {3, 4}, {3}, True, {3}),
        # The label names the removed version.
        ("labels = {stable = 2}", {4}, {}, False, {4}),
        ("versions = [7]", {}, {}, True, {7}),
        ("versions = [7]", {}, {}, False, {}),
        ("labels = {stable = 7}", {3}, {}, True, {7}),
        ("labels = {stable = 7}", {3}, {}, False, {3}),
    ],
)
def test_successors_of_the_default(
    registry: Registry, table: str, wanted: set[int], failed: set[int], is_on_disk: bool, expected: set[int]
) -> None:
    add(registry, 2)
    traffic = registry.traffic("model")
    assert successors(policy(table), traffic, 2, {*wanted}, {*failed}, is_on_disk) == {*expected}


def test_successors_of_labelled_versions(registry: Registry) -> None:
    add(registry, 1)
    add(registry, 9)
    label(registry, "{stable = 9, a = 1, b = 1}")
    moved = policy("labels = {stable = 9, a = 2, b = 3}")
    traffic = registry.traffic("model")
    assert successors(moved, traffic, 1, {2, 3, 9}, {2}, False) == {2, 3}
    assert successors(moved, traffic, 1, {3, 9}, set(), False) == {3}
    assert successors(moved, traffic, 1, {3, 9}, set(), True) == {2, 3}
    assert successors(moved, traffic, 9, {2, 3}, set(), False) == {3}
