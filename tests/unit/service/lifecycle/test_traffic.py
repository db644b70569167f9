from pathlib import Path
from typing import Any

import pytest

from service.inference.version import LoadedVersion, State, VersionStatus
from service.lifecycle.policies import ModelPolicy, decode
from service.lifecycle.traffic import Traffic, route, successors
from tests.unit.service.fakes import loaded_version
from tests.unit.service.lifecycle.worker import OF


def policy(table: str) -> ModelPolicy:
    return decode(f"[models.model]\n{table}".encode(), Path("models.toml")).of("model")


def routed(
    table: str, available: Any, prepared: Any = (), loading: Any = (), before: Any = None, held: Any = None
) -> Traffic:
    """`prepared`: loaded in this worker process, but not yet in all. `before`: what the labels named."""
    versions = {number: loaded_version(OF, version=number) for number in (*available, *prepared)}
    states = dict.fromkeys(available, State.AVAILABLE) | dict.fromkeys((*prepared, *loading), State.LOADING)
    statuses = {number: VersionStatus(state) for number, state in states.items()}
    traffic = route(policy(table), statuses, versions, before or {}, held or {})
    assert traffic.versions == versions
    return traffic


def number(loaded: LoadedVersion | None) -> int | None:
    return loaded.version if loaded else None


CANARY = "labels.canary = {version = 2, share = 0.1}"
SHADOW = "labels.next = {version = 3, shadow = 0.5}"


@pytest.mark.parametrize(
    ("table", "available", "prepared", "expected"),
    [
        ("", {1, 2}, {}, [2, None, None]),
        ("labels.stable = 1", {1, 2}, {}, [1, None, None]),
        ("labels.stable = 1", {2}, {}, [2, None, None]),
        ("labels.stable = 1\ndefault_label = ''", {1, 2}, {}, [2, None, None]),
        ("labels.live = 1\ndefault_label = 'live'", {1, 2}, {}, [1, None, None]),
        (CANARY, {1, 2}, {}, [1, 2, None]),
        (CANARY, {1}, {2}, [1, None, None]),
        (CANARY, {2}, {}, [2, None, None]),
        (f"labels.stable = 2\n{CANARY}", {1, 2}, {}, [2, None, None]),
        (SHADOW, {1, 3}, {}, [1, None, 3]),
        (SHADOW, {1}, {3}, [1, None, None]),
        (SHADOW, {3}, {}, [None, None, None]),
        (f"labels.stable = 3\n{SHADOW}", {1, 3}, {}, [3, None, None]),
        (f"{CANARY}\n{SHADOW}", {1, 2, 3}, {}, [1, 2, 3]),
        # Before anything is available everywhere, the future default answers.
        ("", {}, {1, 2}, [2, None, None]),
        ("labels.stable = 1", {}, {1, 2}, [1, None, None]),
        (f"{CANARY}\n{SHADOW}", {}, {1, 2, 3}, [1, None, None]),
    ],
)
def test_canary_and_shadow(table: str, available: set[int], prepared: set[int], expected: list[int | None]) -> None:
    traffic = routed(table, available, prepared)
    canary, shadow = traffic.canary, traffic.default.shadow if traffic.default else None
    assert [number(traffic.default), number(canary), number(shadow.loaded if shadow else None)] == expected
    assert canary is None or (traffic.share, canary.shadow) == (0.1, shadow)
    assert shadow is None or shadow.share == 0.5


def test_future_default_does_not_answer_before_it_is_loaded() -> None:
    assert routed("", (), prepared={1}, loading={2}).default is None


def test_label_moves_once_its_version_is_available() -> None:
    for available, prepared, expected in (({1}, {2}, 1), ({1, 2}, (), 2)):
        traffic = routed("labels.stable = 2", available, prepared, before={"stable": 1})
        assert (number(traffic.default), traffic.labels) == (expected, {"stable": expected})


def test_held_version_answers_until_its_successors_do() -> None:
    held = {5: {1, 2}}
    assert number(routed("", {5, 1}, {2}, held=held).default) == 5
    assert number(routed("", {5, 1, 2}, held=held).default) == 2


@pytest.mark.parametrize(
    ("table", "wanted", "failed", "is_on_disk", "expected"),
    [
        ("", {3, 4}, {}, False, {4}),
        ("", {3, 4}, {4}, False, {3}),
        ("", {4}, {4}, False, {4}),
        ("", {}, {}, False, {}),
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
def test_successors(table: str, wanted: set[int], failed: set[int], is_on_disk: bool, expected: set[int]) -> None:
    traffic = Traffic(default=loaded_version(OF, version=2))
    assert successors(policy(table), traffic, 2, {*wanted}, {*failed}, is_on_disk) == {*expected}


@pytest.mark.parametrize(
    ("version", "wanted", "failed", "is_on_disk", "expected"),
    [
        (1, {2, 3, 9}, {2}, False, {2, 3}),
        (1, {3, 9}, set(), False, {3}),
        (1, {3, 9}, set(), True, {2, 3}),
        (9, {2, 3}, set(), False, {3}),
    ],
)
def test_successors_of_labelled_versions(
    version: int, wanted: set[int], failed: set[int], is_on_disk: bool, expected: set[int]
) -> None:
    traffic = Traffic(labels={"stable": 9, "a": 1, "b": 1}, default=loaded_version(OF, version=9))
    moved = policy("labels = {stable = 9, a = 2, b = 3}")
    assert successors(moved, traffic, version, wanted, failed, is_on_disk) == expected
