import threading
from pathlib import Path
from typing import Any

import pytest

from service.errors import InvalidRequest, NotFound, Unavailable
from service.inference.health import Unhealthy
from service.inference.version import LoadedVersion, State, VersionStatus
from service.lifecycle.policies import ModelPolicy, Policies, decode
from service.lifecycle.registry import Registry, WouldWait
from tests.unit.service.fakes import loaded_version, make_available, signature, tensor
from tests.unit.service.lifecycle.worker import OF

START = VersionStatus(State.START)
LOADING = VersionStatus(State.LOADING)
AVAILABLE = VersionStatus(State.AVAILABLE)
UNLOADING = VersionStatus(State.UNLOADING)
FAILED = VersionStatus(State.END, error="broken")


@pytest.fixture
def registry() -> Registry:
    """After the first scan; draws 0.5 for each request."""
    registry = Registry(draw=lambda: 0.5)
    registry.end_first_scan()
    return registry


@pytest.fixture
def starting() -> Registry:
    """During the first scan; `get` does not wait."""
    return Registry(timeout_seconds=0)


def add(registry: Registry, *versions: int) -> list[LoadedVersion]:
    added = [loaded_version(OF, version=version) for version in versions]
    for loaded in added:
        make_available(registry, loaded)
    return added


def label(registry: Registry, labels: str) -> None:
    registry.set_policies(decode(f"[models.model]\nlabels = {labels}".encode(), Path("models.toml")))


def test_requested_or_highest_available_version_answers(registry: Registry) -> None:
    two, ten, nine = add(registry, 2, 10, 9)
    registry.set_status("model", 11, FAILED)
    registry.set_status("model", 12, LOADING)
    assert registry.get("model") is ten
    assert registry.get("model", 9) is nine
    assert registry.get("model", 2) is two


@pytest.mark.parametrize(
    ("asked", "status", "message"),
    [
        ({}, FAILED, "Latest(model) (version 3 is END: broken)"),
        ({"version": 3}, FAILED, "Specific(model, 3) (version 3 is END: broken)"),
        ({}, LOADING, "Latest(model) (version 3 is LOADING)"),
        ({"version": 3}, UNLOADING, "Specific(model, 3) (version 3 is UNLOADING)"),
        ({"label": "next"}, UNLOADING, "Specific(model, 3) (version 3 is UNLOADING)"),
        ({"version": 5}, AVAILABLE, "Specific(model, 5) (model has the versions 2, 3)"),
    ],
)
def test_missing_version_is_404(registry: Registry, asked: dict[str, Any], status: VersionStatus, message: str) -> None:
    label(registry, "{next = 3}")
    for version in (3, 2):
        registry.set_status("model", version, status)
    with pytest.raises(NotFound) as raised:
        registry.get("model", **asked)
    assert str(raised.value) == f"Servable not found for request: {message}"


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("mine", "'mine' is not served: it is misplaced"),
        ("mine/v1", "'mine/v1' is not served: it is misplaced"),
        (".", "nothing is served: it is misplaced"),
        ("other", "no such model; GET /v1/models lists them"),
    ],
)
def test_missing_model_is_404(registry: Registry, place: str, reason: str) -> None:
    registry.skipped = {place: "it is misplaced"}
    for name in (None, "canary"):
        with pytest.raises(NotFound) as raised:
            registry.get("mine", label=name)
        assert str(raised.value) == f"Servable not found for request: Latest(mine) ({reason})"


def test_label_answers_and_moves(registry: Registry) -> None:
    add(registry, 1, 2)
    with pytest.raises(InvalidRequest, match="Unrecognized servable version label: other; model has no labels"):
        registry.get("model", label="other")
    label(registry, "{canary = 1, other = 2}")
    assert registry.get("model", label="canary").version == 1
    assert registry.labels() == {"model": {"canary": 1, "other": 2}}
    label(registry, "{canary = 2}")
    assert registry.get("model", label="canary").version == 2
    with pytest.raises(InvalidRequest, match="label: other; model has the labels canary"):
        registry.get("model", label="other")


@pytest.mark.parametrize(("share", "version"), [(0.5, 1), (0.51, 2)])
def test_canary_answers_its_share(registry: Registry, share: float, version: int) -> None:
    add(registry, 1, 2)
    label(registry, f"{{canary = {{version = 2, share = {share}}}}}")
    assert registry.get("model").version == version
    assert registry.get("model", 1).version == 1
    assert registry.get("model", label="canary").version == 2


def test_removed_version_is_404(registry: Registry) -> None:
    _, two = add(registry, 1, 2)
    before = registry.statuses()
    for model, version in (("model", 1), ("model", 5), ("other", 1)):
        registry.remove(model, version)
    assert registry.get("model") is two
    assert list(registry.statuses()["model"]) == [2]
    # A reader's mapping does not change.
    assert list(before["model"]) == [1, 2]
    registry.remove("model", 2)
    assert registry.statuses() == {}
    with pytest.raises(NotFound, match="no such model"):
        registry.get("model")


@pytest.mark.parametrize(
    ("statuses", "skipped", "is_ready"),
    [
        ([], {}, True),
        ([], {"x": "it is misplaced"}, False),
        ([AVAILABLE], {"x": "it is misplaced"}, True),
        ([START], {}, True),
        ([LOADING], {}, False),
        ([FAILED], {}, False),
        ([FAILED, AVAILABLE], {}, True),
    ],
)
def test_readiness(starting: Registry, statuses: list[VersionStatus], skipped: dict[str, str], is_ready: bool) -> None:
    for number, status in enumerate(statuses):
        starting.set_status(f"model {number}", 1, status)
    starting.skipped = skipped
    assert not starting.ready
    starting.end_first_scan()
    assert starting.ready is is_ready
    starting.draining = True
    assert not starting.ready


def test_only_what_is_loaded_answers_during_the_first_scan(starting: Registry) -> None:
    def is_503(version: int | None = None) -> bool:
        with pytest.raises(Unavailable, match="the models are still being loaded; /v2/health/ready tells"):
            starting.get("model", version)
        return True

    assert is_503()
    (one,) = add(starting, 1)
    for status in (START, LOADING):
        starting.set_status("model", 2, status)
        assert is_503()
        assert is_503(2)
        assert starting.get("model", 1) is one
    starting.set_status("other", 1, LOADING)
    starting.set_status("model", 2, FAILED)
    assert starting.get("model") is one


def test_request_waits_until_the_first_scan_has_loaded_its_model() -> None:
    registry = Registry(timeout_seconds=10)
    request = threading.Thread(target=lambda: answers.append(registry.get("model")))
    answers: list[LoadedVersion] = []
    request.start()
    assert answers == []
    added = add(registry, 1)
    request.join()
    assert answers == added


def test_check_ready_does_not_load_on_demand(registry: Registry) -> None:
    registry.when_wanted(lambda _model: pytest.fail("nobody wanted it"))
    registry.set_policies(Policies(default=ModelPolicy(load="on_demand")))
    registry.set_status("model", 1, START)
    registry.check_ready("model")
    registry.set_status("model", 1, FAILED)
    with pytest.raises(NotFound, match="broken"):
        registry.check_ready("model")


def test_models_that_take_strings_or_pictures(registry: Registry) -> None:
    for model, spec in (("text", tensor("DT_STRING", -1)), ("pictures", tensor("DT_UINT8", -1, 8, 8, 3))):
        make_available(registry, loaded_version(signature({"x": spec}), model=model))
    models = ("text", "pictures", "nowhere")
    assert [registry.takes_strings(model) for model in models] == [True, False, False]
    assert [registry.takes_pictures(model) for model in models] == [False, True, False]


def test_unhealthy_version_is_not_ready_and_still_chosen(registry: Registry) -> None:
    _, newest = add(registry, 1, 2)
    newest.health.is_healthy = False
    assert registry.get("model") is newest
    for version in (None, 2):
        with pytest.raises(Unhealthy):
            registry.check_ready("model", version)
    registry.check_ready("model", 1)
    assert registry.unhealthy("model") is registry.unhealthy("model", 2) is newest
    assert registry.unhealthy("model", 1) is None
    assert registry.ready


def test_unhealthy_only_if_every_possible_version_is(registry: Registry) -> None:
    label(registry, "{stable = 1, canary = {version = 2, share = 0.5}, next = 3, gone = 4}")
    stable, canary, _ = add(registry, 1, 2, 3)
    canary.health.is_healthy = False
    assert registry.unhealthy("model") is None
    assert registry.unhealthy("model", label="canary") is canary
    for name in ("next", "gone", "unknown"):
        assert registry.unhealthy("model", label=name) is None
    assert registry.unhealthy("nowhere") is registry.unhealthy("model", 9) is None
    stable.health.is_healthy = False
    assert registry.unhealthy("model") is stable


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (ModelPolicy(load="on_demand"), "is loaded on demand"),
        (ModelPolicy(replace="unload_first"), "is between two versions"),
    ],
    ids=["on demand", "unload first"],
)
def test_awaited_version_is_503(starting: Registry, policy: ModelPolicy, reason: str) -> None:
    with pytest.raises(WouldWait):
        starting.get_at_once("model")
    starting.end_first_scan()
    starting.set_policies(Policies(default=policy))
    starting.set_status("model", 1, START)
    assert not starting.is_quick("model")
    with pytest.raises(WouldWait):
        starting.get_at_once("model")
    for version in (None, 1):
        with pytest.raises(Unavailable, match=f"model {reason}, which takes longer than 0 s"):
            starting.get("model", version)
    (available,) = add(starting, 1)
    assert starting.get_at_once("model") is available
    with pytest.raises(NotFound):
        starting.get_at_once("other")


def test_replacement_is_swapped_in_or_dropped(registry: Registry) -> None:
    (before,), new = add(registry, 1), loaded_version(OF)
    registry.set_failure("model", 1, "broken", "folder")
    registry.set_replacement("model", 1, VersionStatus(State.LOADING, engine="new"), new)
    assert registry.get("model") is before
    assert registry.swap("model", 1) is before
    assert registry.get("model") is registry.get("model", 1) is new
    assert registry.statuses()["model"][1] == VersionStatus(State.AVAILABLE, engine="new")
    assert registry.replacements() == {}
    registry.set_replacement("model", 1, LOADING, before)
    registry.hold("model", 1, frozenset({2}))
    registry.retire("model", 1)
    assert (registry.replacements(), registry.held("model")) == ({}, {})


def test_default_model_is_the_first_by_name(registry: Registry) -> None:
    assert registry.default_model() == ""
    for model in ("b", "a"):
        make_available(registry, loaded_version(OF, model=model))
    assert (registry.default_model(), registry.default_model("b")) == ("a", "b")
