import pytest

from service.inference.version import State, VersionStatus
from tests.unit.service.conftest import MakeService
from tests.unit.service.fakes import FakeService, any_shape, error, signature


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_load_and_unload_are_off_unless_the_operator_turns_them_on(service: FakeService, verb: str) -> None:
    response = service.post(f"/v2/repository/models/model/{verb}", b"")
    assert response.status_code == 403
    assert "SERVING_ADMIN=1 turns it on" in error(response)


@pytest.mark.parametrize("verb", ["load", "unload"])
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_of_another_site_cannot_load_or_unload(make_service: MakeService, site: str, verb: str) -> None:
    response = make_service(admin=True).post(
        f"/v2/repository/models/model/{verb}", b"", headers={"Sec-Fetch-Site": site}
    )
    assert response.status_code == 403
    assert "another site" in error(response)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"parameters": {"unload_dependents": false}}'])
def test_load_and_unload_ask_the_watcher(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    service = make_service(admin=True)
    watcher = service.app.watcher
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(watcher, "load", lambda model: asked.append(("load", model)))
    monkeypatch.setattr(watcher, "unload", lambda model: asked.append(("unload", model)))
    for verb in ("load", "unload"):
        response = service.post(f"/v2/repository/models/a%20b/{verb}", body)
        assert (response.status_code, response.get_json()) == (200, {})
    assert asked == [("load", "a b"), ("unload", "a b")]


@pytest.fixture
def several(service: FakeService) -> FakeService:
    service.add(signature({"x": any_shape("DT_FLOAT")}), version=2)
    service.registry.set_status("model", 1, VersionStatus(State.END, error="broken"))
    service.registry.set_status("another", 1, VersionStatus(State.LOADING))
    service.registry.set_status("another", 2, VersionStatus(State.END))
    return service


@pytest.mark.parametrize("body", [b"", b"{}", b'{"ready": false}', b'{"repository_name": "", "ready": false}'])
def test_the_index_has_every_version_with_its_state(several: FakeService, body: bytes) -> None:
    assert several.post("/v2/repository/index", body).get_json() == [
        {"name": "another", "version": "1", "state": "LOADING", "reason": ""},
        {"name": "another", "version": "2", "state": "UNAVAILABLE", "reason": "unloaded"},
        {"name": "model", "version": "1", "state": "UNAVAILABLE", "reason": "broken"},
        {"name": "model", "version": "2", "state": "READY", "reason": ""},
    ]


def test_the_index_leaves_out_what_is_not_ready_if_asked_to(several: FakeService) -> None:
    assert several.post("/v2/repository/index", {"ready": True}).get_json() == [
        {"name": "model", "version": "2", "state": "READY", "reason": ""},
    ]


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"ready": 1}', b'"ready"'])
def test_a_wrong_question_for_the_index_is_refused(service: FakeService, body: bytes) -> None:
    response = service.post("/v2/repository/index", body)
    assert response.status_code == 400
    assert 'expected {"ready": true}' in error(response)
