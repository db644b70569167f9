"""Labels, canaries, shadows, loading on demand and by command, over several worker processes."""

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from service.inference.version import State
from tests.integration.conftest import SHIPPED
from tests.integration.server import Server, running, workers
from tests.integration.test_lifecycle import failure, publish, state, states

TEN = {"instances": [10.0]}
VERSION_1 = SHIPPED / "regression" / "1"


def write_policies(models: Path, text: str) -> None:
    (draft := models / ".models.toml").write_text(text)
    draft.rename(models / "models.toml")


def answering(server: Server, times: int = 20) -> set[str]:
    """The versions that answer who names none, each time on a connection of its own: by any worker."""
    path = "/v1/models/regression/metadata"
    return {server.request(path).json()["model_spec"]["version"] for _ in range(times)}


def sample(server: Server, series: str) -> float:
    page = server.request("/metrics").body.decode()
    found = re.search(rf"^{re.escape(series)} (\S+)$", page, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_a_version_that_one_worker_calls_available_is_served_by_all(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path / "log", workers=3, poll_seconds=0.3) as server:
        for number in range(2, 5):
            publish(VERSION_1, models / "regression" / str(number))
            is_served = partial(lambda one: state(server, "regression", one) is State.AVAILABLE, number)
            server.wait_for(is_served, "it is not served")
            asked = f"/v1/models/regression/versions/{number}:predict"
            assert {server.request(asked, TEN).status for _ in range(30)} == {200}


def test_a_worker_that_is_replaced_agrees_with_the_others(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path / "log", workers=2) as server:
        killed = workers(server)[0]
        killed.kill()
        server.wait_for(lambda: len({*workers(server)} - {killed}) == 2, "it is not replaced")
        publish(VERSION_1, models / "regression" / "2")
        server.wait_until_all_workers_answer(2)
        server.wait_for(lambda: answering(server) == {"2"}, "the workers do not agree")
        assert set(states(server, "regression")) == {1, 2}


@contextmanager
def asking(server: Server) -> Iterator[list[int]]:
    """The status of every answer to a client that asks all the time, naming no version."""
    statuses: list[int] = []
    is_cancelled = threading.Event()

    def ask() -> None:
        while not is_cancelled.is_set():
            statuses.append(server.request("/v1/models/regression:predict", TEN).status)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield statuses
    finally:
        is_cancelled.set()
        thread.join()


def exchange(new: Path, folder: Path) -> None:
    folder.rename(folder.with_name(f".old-{folder.name}-{new.name}"))
    new.rename(folder)


def test_no_request_is_lost_whichever_way_a_version_takes_the_place_of_another(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for revision in "one", "two":
        shutil.copytree(VERSION_1, tmp_path / revision / "regression" / "1")
        write_policies(tmp_path / revision, "[default]\nversions = {latest = 1}")
    models.symlink_to(tmp_path / "one")
    with running(models, tmp_path / "log", workers=2) as server, asking(server) as statuses:
        publish(VERSION_1, models / "regression" / "3")
        server.wait_for(lambda: states(server, "regression") == {3: State.AVAILABLE}, "3 is not the latest")
        # A model's folder, by two renames; and a lower number.
        shutil.copytree(VERSION_1, models / ".new" / "2")
        exchange(models / ".new", models / "regression")
        server.wait_for(lambda: states(server, "regression") == {2: State.AVAILABLE}, "2 does not take over")
        # The same number.
        shutil.copytree(VERSION_1, models / ".another")
        exchange(models / ".another", models / "regression" / "2")
        server.wait_until_logged("regression version 2 is replaced")
        # The whole folder.
        (tmp_path / "link").symlink_to(tmp_path / "two")
        (tmp_path / "link").rename(models)
        shutil.rmtree(tmp_path / "one")
        server.wait_for(lambda: states(server, "regression") == {1: State.AVAILABLE}, "1 does not take over")
        # One that cannot be loaded.
        (models / ".empty" / "5").mkdir(parents=True)
        exchange(models / ".empty", models / "regression")
        failure(server, "regression", 5, "holds no saved_model.pb")
        assert states(server, "regression")[1] is State.AVAILABLE
        for path in "/v2/health/ready", "/v2/models/regression/ready":
            assert server.request(path).status == 200
    assert len(statuses) > 100
    assert set(statuses) == {200}


def test_where_the_old_version_goes_first_requests_wait_for_the_new_one(models: Path, tmp_path: Path) -> None:
    write_policies(models, "[models.regression]\nversions = {latest = 1}\nreplace = 'unload_first'")
    with running(models, tmp_path / "log", workers=2) as server, asking(server) as statuses:
        for number in 2, 3:
            publish(VERSION_1, models / "regression" / str(number))
            is_alone = partial(lambda one: states(server, "regression") == {one: State.AVAILABLE}, number)
            server.wait_for(is_alone, "it is not served")
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) > 50


def test_a_label_moves_between_versions_and_takes_the_requests_with_it(models: Path, tmp_path: Path) -> None:
    shutil.copytree(VERSION_1, models / "regression" / "2")
    write_policies(models, "[models.regression.labels]\nstable = 1")
    with running(models, tmp_path / "log", workers=2) as server:
        assert answering(server) == {"1"}
        write_policies(models, "[models.regression.labels]\nstable = 2\nold = 1")
        server.wait_for(lambda: answering(server) == {"2"}, "the label has not moved")
        server.wait_for(
            lambda: (
                {server.request("/v1/models/regression/labels/old:predict", TEN).status for _ in range(10)} == {200}
            ),
            "the new label is not known",
        )
        write_policies(models, "[models.regression.labels]\nstable = true")
        server.wait_for(lambda: sample(server, "serving_models_config_valid") == 0, "the fault is not shown")
        assert answering(server) == {"2"}
        server.wait_until_logged("models.toml: Expected `int | object`, got `bool`")


def test_a_canary_gets_its_share_and_a_shadow_its_copies(models: Path, tmp_path: Path) -> None:
    for number in "2", "3":
        shutil.copytree(VERSION_1, models / "regression" / number)
    write_policies(
        models,
        "[models.regression.labels]\nstable = 1\ncanary = {version = 2, share = 0.5}\n"
        "next = {version = 3, shadow = 1.0}",
    )
    with running(models, tmp_path / "log", workers=2) as server:
        assert answering(server, 60) == {"1", "2"}
        for _ in range(40):
            assert server.request("/v1/models/regression:predict", TEN).status == 200
        agreed = 'serving_shadow_total{agrees="true",model="regression",version="3"}'
        server.wait_for(lambda: sample(server, agreed) == 40, "the shadow has not run all copies")
        by_version = [
            sample(
                server,
                f'serving_requests_total{{model="regression",protocol="v1",status="200",verb="predict",version="{number}"}}',
            )
            for number in (1, 2, 3)
        ]
        assert min(by_version[:2]) > 0
        assert sum(by_version[:2]) == 40
        assert by_version[2] == 0


def test_a_model_on_demand_is_loaded_by_the_first_request_for_it(models: Path, tmp_path: Path) -> None:
    write_policies(models, "[default]\nload = 'on_demand'")
    with running(models, tmp_path / "log", workers=2) as server:
        assert state(server, "regression", 1) is State.START
        assert {server.request("/v1/models/regression:predict", TEN).status for _ in range(10)} == {200}
        server.wait_for(lambda: state(server, "regression", 1) is State.AVAILABLE, "the workers do not agree")


def test_clients_unload_and_load_a_model_in_all_workers(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path / "log", workers=3, admin=1) as server:
        for _ in range(3):
            assert server.request("/v2/repository/models/regression/unload", b"").status == 200
            assert {server.request("/v1/models/regression:predict", TEN).status for _ in range(20)} == {404}
            assert server.request("/v2/repository/models/regression/load", b"").status == 200
            assert {server.request("/v1/models/regression:predict", TEN).status for _ in range(20)} == {200}


def test_a_bad_models_toml_stops_the_start(models: Path, tmp_path: Path) -> None:
    write_policies(models, "[models.regression]\nversions = 'newest'")
    ended = subprocess.run(
        [sys.executable, "-m", "service", "--models", str(models)], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2
    assert "models.toml: Invalid enum value 'newest' - at `versions` - in `models.regression`" in ended.stderr
