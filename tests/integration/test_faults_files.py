"""Disks that are full, files that are damaged or vanish, and a clock that jumps."""

import json
import resource
import shutil
import socket
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path

import psutil
import pytest

from service.inference.version import State
from tests.integration.conftest import SHIPPED
from tests.integration.server import DEADLINE_SECONDS, Server, at_start_of_python, running, workers
from tests.integration.test_lifecycle import failure, publish, state
from tests.integration.test_versions import answering, sample

TEN = json.dumps({"instances": [10.0]}).encode()
PREDICT = "/v1/models/regression:predict"
VERSION_1 = SHIPPED / "regression" / "1"
ASSETS = "assets.extra"


def set_room_on_disk(server: Server, size: int) -> None:
    """None of the service's processes can write a file beyond that, as if the disk were full."""
    for process in (psutil.Process(server.process.pid), *workers(server)):
        _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, most))


def answers(server: Server, times: int = 20) -> set[int]:
    return {server.request(PREDICT, TEN).status for _ in range(times)}


def test_on_a_full_disk_requests_are_answered_and_workers_replaced(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path / "log", workers=2) as server:
        assert answers(server) == {200}
        set_room_on_disk(server, 0)
        logged = server.log.stat().st_size
        publish(VERSION_1, models / "regression" / "2")
        server.wait_for(lambda: answering(server) == {"2"}, "version 2 is not served")
        assert server.request("/v1/models/nowhere:predict", TEN).status == 404
        assert answers(server) == {200}
        workers(server)[0].kill()
        server.wait_until_all_workers_answer(2)
        assert answers(server) == {200}
        assert sample(server, 'serving_model_state{model="regression",state="AVAILABLE",version="2"}') == 1
        assert server.log.stat().st_size == logged
        set_room_on_disk(server, resource.RLIM_INFINITY)
        assert answers(server) == {200}
        server.wait_for(lambda: server.log.stat().st_size > logged, "the log does not go on")


def test_a_temporary_folder_that_is_emptied_costs_nothing(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with running(models, tmp_path / "log", workers=2) as server:
        assert answers(server) == {200}
        # With all that is in it.
        shutil.rmtree(temporary)
        assert answers(server) == {200}
        publish(VERSION_1, models / "regression" / "2")
        server.wait_for(lambda: answering(server) == {"2"}, "version 2 is not served")
        victim = workers(server)[0]
        victim.kill()
        server.wait_for(lambda: len(set(workers(server)) - {victim}) == 2, "it is not replaced")
        server.wait_until_all_workers_answer(2)
        assert answers(server) == {200}
        counted = 'serving_requests_total{model="regression",protocol="v1",status="200",verb="predict",version="1"}'
        assert sample(server, counted) >= 40
        assert sample(server, "serving_workers") == 2


def test_without_a_temporary_folder_the_service_starts_and_says_what_fails(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_start_of_python("import tempfile; tempfile._candidate_tempdir_list = lambda: []", tmp_path, monkeypatch)
    with running(models, tmp_path / "log", workers=2) as server:
        assert answers(server) == {200}
        server.wait_until_logged("there is no temporary folder to write to")
        workers(server)[0].kill()
        server.wait_until_all_workers_answer(2)
        assert server.request("/metrics").status == 200


def damage(file: str, change: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda version: change(version / file)


def loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


DAMAGED = {
    "a damaged twin": (
        damage(f"{ASSETS}/model.tflite", lambda twin: twin.write_bytes(twin.read_bytes()[:-1])),
        "its twin assets.extra/model.tflite is damaged",
    ),
    "a damaged SavedModel": (
        damage("saved_model.pb", lambda file: file.write_bytes(b"\xff" * 100)),
        "its twin was made from another SavedModel",
    ),
    "no SavedModel": (damage("saved_model.pb", Path.unlink), "not a SavedModel: it holds no saved_model.pb"),
    "a damaged serving.json": (damage(f"{ASSETS}/serving.json", lambda file: file.write_text("{")), "serving.json: "),
    "a serving.json that cannot be read": (
        damage(f"{ASSETS}/serving.json", loop),
        "assets.extra/serving.json cannot be read: Too many levels of symbolic links",
    ),
    "variables of another model": (
        damage("variables/variables.index", lambda file: file.write_bytes(b"other")),
        "its twin was made from another SavedModel",
    ),
}


def test_damaged_versions_that_appear_are_named_with_their_reasons_and_the_old_one_serves_on(
    models: Path, tmp_path: Path
) -> None:
    with running(models, tmp_path / "log", engine="litert") as server:
        for number, (damaged, _) in enumerate(DAMAGED.values(), 2):
            shutil.copytree(VERSION_1, draft := tmp_path / "draft")
            damaged(draft)
            draft.rename(models / "regression" / str(number))
        for number, (_, expected) in enumerate(DAMAGED.values(), 2):
            assert str(tmp_path) not in failure(server, "regression", number, expected)["error_message"]
        assert answers(server) == {200}
        assert sample(server, 'serving_model_load_failures_total{model="regression",version="2"}') >= 1


def test_a_version_whose_files_vanish_is_served_as_long_as_its_folder_is_there(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path / "log") as server:
        for file in (models / "regression" / "1").iterdir():
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        publish(VERSION_1, models / "other" / "1")
        server.wait_for(lambda: state(server, "other", 1) is State.AVAILABLE, "the watcher does not look")
        assert answers(server) == {200}
        assert state(server, "regression", 1) is State.AVAILABLE
        (models / "regression" / "1").rmdir()
        server.wait_for(lambda: answers(server, 1) == {404}, "it is still served")


def test_a_models_folder_that_vanishes_and_comes_back_costs_no_answer(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path / "log") as server:
        models.rename(elsewhere := tmp_path / "elsewhere")
        server.wait_until_logged("cannot read the models folder (what is loaded goes on serving)")
        assert answers(server) == {200}
        assert server.request("/v2/health/ready").status == 200
        shutil.copytree(VERSION_1, elsewhere / "regression" / "2")
        elsewhere.rename(models)
        server.wait_for(lambda: answering(server) == {"2"}, "what came back is not seen")


LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
JUMPING_CLOCK = """
import os, time
really = time.time
def jumped():
    try:
        with open(os.environ["CLOCK"]) as offset:
            return really() + float(offset.read())
    except OSError:
        return really()
time.time, time.time_ns = jumped, lambda: int(jumped() * 1e9)
"""


@pytest.mark.parametrize("days", [-365, 365])
def test_a_clock_that_jumps_changes_dates_and_nothing_else(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    monkeypatch.setenv("CLOCK", str(tmp_path / "clock"))
    at_start_of_python(JUMPING_CLOCK, tmp_path, monkeypatch)
    command = "/v2/repository/models/regression"
    with (
        running(models, tmp_path / "log", workers=2, admin=1) as server,
        socket.create_connection(("127.0.0.1", server.port), DEADLINE_SECONDS) as kept,
    ):
        # Who has asked once may take longer until the next time.
        kept.sendall(LIVE)
        assert kept.recv(4096).startswith(b"HTTP/1.1 200")
        date = parsedate_to_datetime(server.request("/v2/health/live").headers["date"])
        assert server.request(f"{command}/unload", b"{}").status == 200
        (draft := tmp_path / ".clock").write_text(str(days * 86400))
        draft.rename(tmp_path / "clock")
        jumped = parsedate_to_datetime(server.request("/v2/health/live").headers["date"])
        assert abs((jumped - date).days - days) <= 1
        # Who commands is answered once every worker has obeyed.
        assert server.request(f"{command}/load", b"{}").status == 200
        assert answers(server, 50) == {200}
        publish(VERSION_1, models / "regression" / "2")
        server.wait_for(lambda: answering(server) == {"2"}, "what appears is not seen")
        kept.sendall(LIVE)
        assert kept.recv(4096).startswith(b"HTTP/1.1 200")
        assert len(workers(server)) == 2
        assert "Traceback" not in server.log.read_text()
