import threading

import pytest

from service.errors import InvalidRequest, NotFound, Unavailable
from service.inference.health import Unhealthy
from service.inference.version import LoadedVersion, State, VersionStatus
from service.lifecycle.policies import Label, ModelPolicy, Policies
from service.lifecycle.registry import Registry, WouldWait
from service.serving_config import ServingConfig
from tests.unit.service.fakes import any_shape, loaded_version, make_available, signature, tensor

SIGNATURE = signature({"x": any_shape("DT_FLOAT")})


@pytest.fixture
def registry() -> Registry:
    """As it is once the first scan is done."""
    registry = Registry()
    registry.first_scan_done.set()
    return registry


@pytest.fixture
def starting() -> Registry:
    """As it is while the first scan goes on, and nobody has any patience."""
    return Registry(timeout_seconds=0)


def add(registry: Registry, version: int, model: str = "model") -> LoadedVersion:
    loaded = loaded_version(SIGNATURE, model=model, version=version)
    make_available(registry, loaded)
    return loaded


def not_found(registry: Registry, model: str, version: int | None = None) -> str:
    with pytest.raises(NotFound) as raised:
        registry.get(model, version)
    return str(raised.value)


def test_without_a_version_the_highest_available_one_answers(registry: Registry) -> None:
    add(registry, 2)
    highest = add(registry, 10)
    add(registry, 9)
    assert registry.get("model") is highest


def test_a_higher_version_that_failed_leaves_the_lower_one_serving(registry: Registry) -> None:
    one = add(registry, 1)
    registry.set_status("model", 2, VersionStatus(State.END, error="broken"))
    registry.set_status("model", 3, VersionStatus(State.LOADING))
    assert registry.get("model") is one


def test_a_version_that_is_asked_for_answers_itself(registry: Registry) -> None:
    one = add(registry, 1)
    add(registry, 2)
    assert registry.get("model", 1) is one


def test_an_unknown_model_is_not_found_and_says_where_models_are_listed(registry: Registry) -> None:
    assert not_found(registry, "modle") == (
        "Servable not found for request: Latest(modle) (no such model; GET /v1/models lists them)"
    )


def test_an_unknown_version_is_not_found_and_says_which_there_are(registry: Registry) -> None:
    add(registry, 10)
    add(registry, 2)
    assert not_found(registry, "model", 5) == (
        "Servable not found for request: Specific(model, 5) (model has the versions 2, 10)"
    )


@pytest.mark.parametrize("version", [None, 3])
def test_a_version_that_failed_is_not_found_and_says_why(registry: Registry, version: int | None) -> None:
    registry.set_status("model", 3, VersionStatus(State.END, error="no saved_model.pb"))
    assert not_found(registry, "model", version).endswith("(version 3 is END: no saved_model.pb)")


def test_a_version_that_is_loading_says_so(registry: Registry) -> None:
    registry.set_status("model", 3, VersionStatus(State.LOADING))
    assert not_found(registry, "model").endswith("(version 3 is LOADING)")


def test_a_label_that_nobody_gave_is_an_invalid_request(registry: Registry) -> None:
    add(registry, 1)
    with pytest.raises(InvalidRequest, match=r"Unrecognized servable version label: canary; model has no labels"):
        registry.get("model", label="canary")


def test_a_label_of_an_unknown_model_is_not_found(registry: Registry) -> None:
    with pytest.raises(NotFound, match="no such model"):
        registry.get("nowhere", label="canary")


def test_a_version_that_is_removed_is_gone(registry: Registry) -> None:
    add(registry, 1)
    two = add(registry, 2)
    registry.remove("model", 1)
    assert registry.get("model") is two
    assert list(registry.statuses()["model"]) == [2]
    registry.remove("model", 2)
    assert registry.statuses() == {}
    assert "no such model" in not_found(registry, "model")


def test_removing_what_is_not_there_changes_nothing(registry: Registry) -> None:
    add(registry, 1)
    registry.remove("model", 2)
    registry.remove("other", 1)
    assert {model: list(versions) for model, versions in registry.statuses().items()} == {"model": [1]}


def test_a_version_that_is_no_longer_available_gets_no_requests(registry: Registry) -> None:
    add(registry, 1)
    registry.set_status("model", 1, VersionStatus(State.UNLOADING))
    assert not_found(registry, "model", 1).endswith("(version 1 is UNLOADING)")


def test_what_a_request_read_does_not_change_under_it(registry: Registry) -> None:
    add(registry, 1)
    before = registry.statuses()
    add(registry, 2)
    registry.remove("model", 1)
    assert list(before["model"]) == [1]


def test_it_is_ready_once_everything_found_at_the_start_was_tried(starting: Registry) -> None:
    add(starting, 1)
    assert not starting.ready
    starting.first_scan_done.set()
    assert starting.ready


def test_it_is_ready_without_any_model(registry: Registry) -> None:
    assert registry.ready


def test_it_is_not_ready_where_every_model_failed(registry: Registry) -> None:
    registry.set_status("model", 1, VersionStatus(State.END, error="broken"))
    assert not registry.ready


def test_one_model_of_several_is_enough_to_be_ready(registry: Registry) -> None:
    registry.set_status("model", 1, VersionStatus(State.END, error="broken"))
    add(registry, 1, "other")
    assert registry.ready


@pytest.mark.parametrize("state", [State.START, State.LOADING, None])
def test_who_asks_while_the_first_scan_goes_on_is_told_to_come_again(starting: Registry, state: State | None) -> None:
    if state:
        add(starting, 1)
        starting.set_status("model", 2, VersionStatus(state))
    with pytest.raises(Unavailable, match=r"the models are still being loaded; /v2/health/ready tells"):
        starting.get("model")


def test_what_the_first_scan_is_done_with_is_served_while_it_goes_on(starting: Registry) -> None:
    one = add(starting, 1)
    starting.set_status("model", 2, VersionStatus(State.END, error="broken"))
    starting.set_status("other", 1, VersionStatus(State.LOADING))
    assert starting.get("model") is one


def test_a_version_that_is_loaded_answers_who_names_it_while_others_of_its_model_are_not(starting: Registry) -> None:
    one = add(starting, 1)
    starting.set_status("model", 2, VersionStatus(State.LOADING))
    assert starting.get("model", 1) is one
    with pytest.raises(Unavailable):
        starting.get("model", 2)


def test_who_asks_while_the_first_scan_goes_on_waits_for_its_end() -> None:
    registry = Registry(timeout_seconds=10)
    asked = threading.Thread(target=lambda: answers.append(registry.get("model")))
    answers: list[LoadedVersion] = []
    asked.start()
    one = add(registry, 1)
    assert answers == []
    registry.first_scan_done.set()
    asked.join()
    assert answers == [one]


def test_an_unknown_signature_is_refused_with_those_that_there_are() -> None:
    loaded = loaded_version(SIGNATURE)
    assert loaded.signature("serving_default") is SIGNATURE
    with pytest.raises(InvalidRequest) as raised:
        loaded.signature("predict")
    assert str(raised.value) == "Serving signature key \"predict\" not found; model has 'serving_default'"


@pytest.mark.parametrize(
    ("outputs", "labels", "expected"),
    [
        ({"y": tensor("DT_FLOAT", -1, 2)}, ("a", "b"), "y"),
        ({"y": tensor("DT_FLOAT", -1, 2)}, (), None),
        ({"y": tensor("DT_FLOAT", -1, 3)}, ("a", "b"), None),
        ({"y": tensor("DT_FLOAT", 2)}, ("a", "b"), None),
        ({"y": tensor("DT_FLOAT", -1, 1, 2)}, ("a", "b"), None),
        ({"y": any_shape("DT_FLOAT")}, ("a", "b"), None),
        ({"y": tensor("DT_FLOAT", -1, 2), "z": tensor("DT_FLOAT", -1, 8)}, ("a", "b"), "y"),
        ({"y": tensor("DT_FLOAT", -1, 2), "z": tensor("DT_FLOAT", -1, 2)}, ("a", "b"), None),
        ({"y": tensor("DT_STRING", -1, 2)}, ("a", "b"), None),
        ({"y": tensor("DT_STRING", -1, 2), "z": tensor("DT_FLOAT", -1, 2)}, ("a", "b"), "z"),
    ],
)
def test_the_labels_output_is_the_only_one_with_a_score_for_each_label(
    outputs: dict[str, object], labels: tuple[str, ...], expected: str | None
) -> None:
    of = signature({"x": any_shape("DT_FLOAT")}, outputs)  # type: ignore[arg-type]
    assert loaded_version(of, config=ServingConfig(labels=labels)).label_output("serving_default") == expected


def test_a_model_on_demand_is_ready_before_it_is_loaded_and_to_ask_loads_nothing() -> None:
    registry = Registry()
    registry.first_scan_done.set()
    registry.when_wanted(lambda _model: pytest.fail("nobody wanted it"))
    registry.set_policies(Policies(default=ModelPolicy(load="on_demand")))
    registry.set_status("model", 1, VersionStatus(State.START))
    registry.check_ready("model")
    registry.set_status("model", 1, VersionStatus(State.END, error="damaged"))
    with pytest.raises(NotFound, match="damaged"):
        registry.check_ready("model")


def fall_ill(*versions: LoadedVersion) -> None:
    for loaded in versions:
        loaded.health.is_healthy = False


def test_a_model_whose_default_version_is_unhealthy_is_not_ready_and_no_other_version_takes_its_place(
    registry: Registry,
) -> None:
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


def test_only_who_cannot_get_a_healthy_version_is_turned_away_before_it_is_chosen(registry: Registry) -> None:
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
def test_the_event_loop_does_not_wait_for_a_version(registry: Registry, policy: ModelPolicy) -> None:
    registry.set_policies(Policies(default=policy))
    registry.set_status("model", 1, VersionStatus(State.START))
    with pytest.raises(WouldWait):
        registry.get_at_once("model")
    available = add(registry, 1)
    assert registry.get_at_once("model") is available
    with pytest.raises(NotFound):
        registry.get_at_once("other")


def test_a_replacement_takes_the_place_of_its_number_and_what_a_request_holds_stays(registry: Registry) -> None:
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


def test_what_is_retired_needs_no_replacement_and_waits_for_nobody(registry: Registry) -> None:
    add(registry, 1)
    registry.set_replacement("model", 1, VersionStatus(State.LOADING), loaded_version(SIGNATURE))
    registry.hold("model", 1, frozenset({2}))
    registry.retire("model", 1)
    assert (registry.replacements(), registry.held("model")) == ({}, {})
