"""Versions that appear, vanish, fail and recover while the service runs."""

import shutil
from pathlib import Path
from typing import Any

from service.inference.version import State
from tests.integration.conftest import SHIPPED
from tests.integration.server import Server, running, wait_for

TEN = {"instances": [10.0]}
VERSION_1 = SHIPPED / "regression" / "1"


def states(server: Server, model: str) -> dict[int, State]:
    answer = server.request(f"/v1/models/{model}")
    known: list[dict[str, Any]] = answer.json().get("model_version_status", [])
    return {int(one["version"]): State(one["state"]) for one in known}


def state(server: Server, model: str, version: int) -> State | None:
    return states(server, model).get(version)


def failure(server: Server, model: str, version: int, reason: str) -> dict[str, str]:
    """What is said of a version (`error_code`, `error_message`), once it cannot be loaded for this reason. Now and then
    it is tried again, and is LOADING meanwhile."""
    told: list[dict[str, str]] = []

    def has_failed() -> bool:
        known = server.request(f"/v1/models/{model}").json().get("model_version_status", [])
        told[:] = [one["status"] for one in known if (one["version"], one["state"]) == (str(version), State.END)]
        return any(reason in one["error_message"] for one in told)

    wait_for(has_failed, lambda: f"{model} version {version} did not fail for {reason!r}, but: {told}")
    return told[0]


def publish(source: Path, version: Path) -> None:
    """As an export does: copied beside, then one rename."""
    beside = version.parent / f".{version.name}"
    shutil.copytree(source, beside)
    beside.rename(version)


def test_a_model_and_a_version_that_appear_are_served_and_the_highest_is_the_default(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    with running(models, tmp_path / "log") as server:
        assert server.request("/v1/models").json() == {"models": []}
        (models / "regression").mkdir()
        publish(VERSION_1, models / "regression" / "1")
        server.wait_for(lambda: state(server, "regression", 1) is State.AVAILABLE, "version 1 is not served")
        publish(VERSION_1, models / "regression" / "2")
        server.wait_for(lambda: state(server, "regression", 2) is State.AVAILABLE, "version 2 is not served")
        default = server.request("/v1/models/regression/metadata").json()
        assert default["model_spec"]["version"] == "2"
        assert server.request("/v1/models/regression/versions/1:predict", TEN).status == 200


def test_a_version_that_vanishes_is_unloaded_and_the_next_lower_is_the_default(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for number in "1", "2":
        shutil.copytree(VERSION_1, models / "regression" / number)
    with running(models, tmp_path / "log") as server:
        assert set(states(server, "regression")) == {1, 2}
        shutil.rmtree(models / "regression" / "2")
        server.wait_for(lambda: set(states(server, "regression")) == {1}, "version 2 is still there")
        assert server.request("/v1/models/regression:predict", TEN).status == 200
        assert server.request("/v1/models/regression/versions/2:predict", TEN).status == 404
        shutil.rmtree(models / "regression")
        server.wait_for(lambda: not states(server, "regression"), "the model is still there")
        page = server.request("/metrics").body.decode()
        assert "serving_model_state{" not in page


def test_a_damaged_version_leaves_the_old_one_serving_and_is_loaded_once_mended(tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(VERSION_1, models / "regression" / "1")
    with running(models, tmp_path / "log", engine="litert") as server:
        damaged = tmp_path / "damaged"
        shutil.copytree(VERSION_1, damaged)
        twin = damaged / "assets.extra" / "model.tflite"
        twin.write_bytes(twin.read_bytes()[:-1])
        publish(damaged, models / "regression" / "2")
        failure(server, "regression", 2, "is damaged")
        assert server.request("/v1/models/regression/metadata").json()["model_spec"]["version"] == "1"
        shutil.copy(VERSION_1 / "assets.extra" / "model.tflite", models / "regression" / "2" / "assets.extra")
        server.wait_for(lambda: state(server, "regression", 2) is State.AVAILABLE, "version 2 is not tried again")


def test_a_half_copied_version_is_served_once_it_is_whole(tmp_path: Path) -> None:
    models = tmp_path / "models"
    target = models / "regression" / "1"
    models.mkdir()
    with running(models, tmp_path / "log", engine="litert") as server:
        # A slow copy into the final place, file by file, with the graph first and the twin last.
        files = sorted(
            (file for file in VERSION_1.rglob("*") if file.is_file()), key=lambda file: file.suffix == ".tflite"
        )
        for file in files[:-1]:
            copy = target / file.relative_to(VERSION_1)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
        failure(server, "regression", 1, "model.tflite is missing")
        shutil.copy(files[-1], target / files[-1].relative_to(VERSION_1))
        server.wait_for(lambda: state(server, "regression", 1) is State.AVAILABLE, "the whole is not served")
        assert server.request("/v1/models/regression:predict", TEN).status == 200


def test_folders_that_are_no_versions_are_passed_over(tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(VERSION_1, models / "regression" / "1")
    shutil.copytree(VERSION_1, models / "regression" / ".export-x")
    shutil.copytree(VERSION_1, models / "regression" / "two")
    shutil.copytree(VERSION_1, models / ".hidden" / "1")
    (models / "README.md").write_text("not a model")
    with running(models, tmp_path / "log") as server:
        assert server.request("/v1/models").json() == {"models": ["regression"]}
        assert set(states(server, "regression")) == {1}


def test_with_nothing_but_broken_models_the_service_lives_but_is_not_ready(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    with running(models, tmp_path / "log") as server:
        (models / "empty" / "1").mkdir(parents=True)
        failure(server, "empty", 1, "holds no saved_model.pb")
        ready = server.request("/v2/health/ready")
        assert (ready.status, ready.json()) == (503, {"live": True, "ready": False})
        live = server.request("/v2/health/live")
        assert (live.status, live.json()) == (200, {"live": True, "ready": False})
