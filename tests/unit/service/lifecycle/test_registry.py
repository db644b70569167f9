import threading

import pytest

from service.errors import InvalidRequest, NotFound, Unavailable
from service.inference.health import Unhealthy
from service.inference.version import LoadedVersion, State, VersionStatus
from service.lifecycle.policies import Label, ModelPolicy, Policies
from service.lifecycle.registry import Registry, WouldWait
from tests.unit.service.fakes import any_shape, loaded_version, make_available, signature, tensor

SIGNATURE = signature({"x": any_shape("DT_FLOAT")})


@pytest.fixture
def registry() -> Registry:
    """After the first scan."""
    registry = Registry()
    registry.first_scan_done.set()
    return registry


@pytest.fixture
def starting() -> Registry:
    """During the first scan; `get` does not wait."""
    return Registry(timeout_seconds=0)


def add(registry: Registry, version: int, model: str = "model") -> LoadedVersion:
    loaded = loaded_version(SIGNATURE, model=model, version=version)
    make_available(registry, loaded)
    return loaded


def not_found(registry: Registry, model: str, version: int | None = None) -> str:
    with pytest.raises(NotFound) as raised:
        registry.get(model, version)
    return str(raised.value)


def test_highest_version_answers(registry: Registry) -> None:
    add(registry, 2)
    highest = add(registry, 10)
    add(registry, 9)
    assert registry.get("model") is highest


def test_failed_version_does_not_answer(registry: Registry) -> None:
    one = add(registry, 1)
    registry.set_status("model", 2, VersionStatus(State.END, error="broken"))
    registry.set_status("model", 3, VersionStatus(State.LOADING))
    assert registry.get("model") is one


def test_requested_version_answers(registry: Registry) -> None:
    one = add(registry, 1)
    add(registry, 2)
    assert registry.get("model", 1) is one


def test_unknown_model_is_404(registry: Registry) -> None:
    assert not_found(registry, "modle") == (
        "Servable not found for request: Latest(modle) (no such model; GET /v1/models lists them)"
    )


def test_unknown_version_is_404(registry: Registry) -> None:
    add(registry, 10)
    add(registry, 2)
    assert not_found(registry, "model", 5) == (
        "Servable not found for request: Specific(model, 5) (model has the versions 2, 10)"
    )


@pytest.mark.parametrize("version", [None, 3])
def test_failed_version_is_404_with_its_error(registry: Registry, version: int | None) -> None:
    registry.set_status("model", 3, VersionStatus(State.END, error="no saved_model.pb"))
    assert not_found(registry, "model", version).endswith("(version 3 is END: no saved_model.pb)")


def test_loading_version_is_404_with_its_state(registry: Registry) -> None:
    registry.set_status("model", 3, VersionStatus(State.LOADING))
    assert not_found(registry, "model").endswith("(version 3 is LOADING)")


@pytest.mark.parametrize(
    ("place", "model", "words"),
    [
        ("mine", "mine", "('mine' is not served: it is misplaced)"),
        ("mine/v1", "mine", "('mine/v1' is not served: it is misplaced)"),
        (".", "mine", "(nothing is served: it is misplaced)"),
        ("mine", "other", "(no such model; GET /v1/models lists them)"),
    ],
)
def test_skipped_model_is_404_with_the_reason(registry: Registry, place: str, model: str, words: str) -> None:
    registry.skipped = {place: "it is misplaced"}
    assert not_found(registry, model).endswith(words)


def test_unknown_label_is_400(registry: Registry) -> None:
    add(registry, 1)
    with pytest.raises(InvalidRequest, match=r"Unrecognized servable version label: canary; model has no labels"):
        registry.get("model", label="canary")


def test_label_of_an_unknown_model_is_404(registry: Registry) -> None:
    with pytest.raises(NotFound, match="no such model"):
        registry.get("nowhere", label="canary")


def test_removed_version_is_404(registry: Registry) -> None:
    add(registry, 1)
    two = add(registry, 2)
    registry.remove("model", 1)
    assert registry.get("model") is two
    assert list(registry.statuses()["model"]) == [2]
    registry.remove("model", 2)
    assert registry.statuses() == {}
    assert "no such model" in not_found(registry, "model")


def test_removing_an_unknown_version_changes_nothing(registry: Registry) -> None:
    add(registry, 1)
    registry.remove("model", 2)
    registry.remove("other", 1)
    assert {model: list(versions) for model, versions in registry.statuses().items()} == {"model": [1]}


def test_unloading_version_is_404(registry: Registry) -> None:
    add(registry, 1)
    registry.set_status("model", 1, VersionStatus(State.UNLOADING))
    assert not_found(registry, "model", 1).endswith("(version 1 is UNLOADING)")


def test_statuses_do_not_change_under_a_reader(registry: Registry) -> None:
    add(registry, 1)
    before = registry.statuses()
    add(registry, 2)
    registry.remove("model", 1)
    assert list(before["model"]) == [1]


def test_ready_after_the_first_scan(starting: Registry) -> None:
    add(starting, 1)
    assert not starting.ready
    starting.first_scan_done.set()
    assert starting.ready


def test_ready_without_models(registry: Registry) -> None:
    assert registry.ready


def test_not_ready_with_only_misplaced_models(registry: Registry) -> None:
    registry.skipped = {"x": "it is misplaced"}
    assert not registry.ready
    add(registry, 1)
    assert registry.ready


def test_not_ready_if_every_model_failed(registry: Registry) -> None:
    registry.set_status("model", 1, VersionStatus(State.END, error="broken"))
    assert not registry.ready


def test_ready_with_one_of_several_models(registry: Registry) -> None:
    registry.set_status("model", 1, VersionStatus(State.END, error="broken"))
    add(registry, 1, "other")
    assert registry.ready


def test_not_ready_while_draining(registry: Registry) -> None:
    add(registry, 1)
    assert registry.ready
    registry.draining = True
    assert not registry.ready


@pytest.mark.parametrize("state", [State.START, State.LOADING, None])
def test_request_during_the_first_scan_is_503_after_the_timeout(starting: Registry, state: State | None) -> None:
    if state:
        add(starting, 1)
        starting.set_status("model", 2, VersionStatus(state))
    with pytest.raises(Unavailable, match=r"the models are still being loaded; /v2/health/ready tells"):
        starting.get("model")


def test_settled_model_answers_during_the_first_scan(starting: Registry) -> None:
    one = add(starting, 1)
    starting.set_status("model", 2, VersionStatus(State.END, error="broken"))
    starting.set_status("other", 1, VersionStatus(State.LOADING))
    assert starting.get("model") is one


def test_loaded_version_answers_during_the_first_scan(starting: Registry) -> None:
    one = add(starting, 1)
    starting.set_status("model", 2, VersionStatus(State.LOADING))
    assert starting.get("model", 1) is one
    with pytest.raises(Unavailable):
        starting.get("model", 2)


def test_request_waits_for_the_first_scan() -> None:
    registry = Registry(timeout_seconds=10)
    request = threading.Thread(target=lambda: answers.append(registry.get("model")))
    answers: list[LoadedVersion] = []
    request.start()
    one = add(registry, 1)
    assert answers == []
    registry.first_scan_done.set()
    request.join()
    assert answers == [one]


def test_check_ready_does_not_load_on_demand() -> None:
    registry = Registry()
    registry.first_scan_done.set()
    registry.when_wanted(lambda _model: pytest.fail("nobody wanted it"))
    registry.set_policies(Policies(default=ModelPolicy(load="on_demand")))
    registry.set_status("model", 1, VersionStatus(State.START))
    registry.check_ready("model")
    registry.set_status("model", 1, VersionStatus(State.END, error="damaged"))
    with pytest.raises(NotFound, match="damaged"):
        registry.check_ready("model")


def test_models_that_take_strings_or_pictures(registry: Registry) -> None:
    make_available(registry, loaded_version(signature({"x": tensor("DT_STRING", -1)}), model="text"))
    make_available(registry, loaded_version(signature({"x": tensor("DT_UINT8", -1, 8, 8, 3)}), model="pictures"))
    assert [registry.takes_strings(model) for model in ("text", "pictures", "nowhere")] == [True, False, False]
    assert [registry.takes_pictures(model) for model in ("text", "pictures", "nowhere")] == [False, True, False]


def fall_ill(*versions: LoadedVersion) -> None:
    for loaded in versions:
        loaded.health.is_healthy = False


def test_unhealthy_version_is_not_ready_and_still_chosen(registry: Registry) -> None:
    older, newest = add(registry, 1), add(registry, 2)
    fall_ill(newest)
    assert registry.get("model") is newest
    for version in (None, 2):
        with pytest.raises(Unhealthy):
            registry.check_ready("model", version)
    registry.check_ready("model", 1)
    assert registry.unhealthy("model") is registry.unhealthy("model", 2) is newest
    assert registry.unhealthy("model", older.version) is None
    assert registry.ready


def test_unhealthy_only_if_every_possible_version_is(registry: Registry) -> None:
    labels: dict[str, int | Label] = {"stable": 1, "canary": Label(version=2, share=0.5), "next": 3, "gone": 4}
    registry.set_policies(Policies(models={"model": ModelPolicy(labels=labels)}))
    stable, canary, other = (add(registry, number) for number in (1, 2, 3))
    fall_ill(canary)
    assert registry.unhealthy("model") is None
    assert registry.unhealthy("model", label="canary") is canary
    assert registry.unhealthy("model", label="next") is None
    fall_ill(other)
    assert registry.unhealthy("model", label="next") is other
    for label in ("gone", "unknown"):
        assert registry.unhealthy("model", label=label) is None
    assert registry.unhealthy("nowhere") is registry.unhealthy("model", 9) is None
    fall_ill(stable)
    assert registry.unhealthy("model") is stable


@pytest.mark.parametrize("policy", [ModelPolicy(load="on_demand"), ModelPolicy(replace="unload_first")])
def test_get_at_once_does_not_wait(registry: Registry, policy: ModelPolicy) -> None:
    registry.set_policies(Policies(default=policy))
    registry.set_status("model", 1, VersionStatus(State.START))
    with pytest.raises(WouldWait):
        registry.get_at_once("model")
    available = add(registry, 1)
    assert registry.get_at_once("model") is available
    with pytest.raises(NotFound):
        registry.get_at_once("other")


def test_swap_puts_the_replacement_in_place(registry: Registry) -> None:
    before = add(registry, 1)
    registry.set_failure("model", 1, "broken", "folder")
    assert registry.get("model") is before
    new = loaded_version(SIGNATURE)
    registry.set_replacement("model", 1, VersionStatus(State.LOADING, engine="new"), new)
    assert registry.get("model") is before
    assert registry.swap("model", 1) is before
    assert registry.get("model") is registry.get("model", 1) is new
    assert registry.statuses()["model"][1] == VersionStatus(State.AVAILABLE, engine="new")
    assert registry.replacements() == {}


def test_retire_drops_replacement_and_successors(registry: Registry) -> None:
    add(registry, 1)
    registry.set_replacement("model", 1, VersionStatus(State.LOADING), loaded_version(SIGNATURE))
    registry.hold("model", 1, frozenset({2}))
    registry.retire("model", 1)
    assert (registry.replacements(), registry.held("model")) == ({}, {})
