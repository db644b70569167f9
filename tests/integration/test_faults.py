"""Workers that are killed, versions that kill them or hang, disks that are full, a clock that jumps."""

import http.client
import json
import os
import resource
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path

import psutil
import pytest

from service.inference.version import State
from tests.integration.models import VERSION_1, Model, asking, publish
from tests.integration.server import (
    DEADLINE_SECONDS,
    EAGER,
    TEN,
    Server,
    at_start_of_python,
    clients_of,
    running,
    workers,
)

DIED_OF_IT = "worker processes died of it"
MEMORY = 600 * 2**20
THIRTEEN = {"instances": [13.0]}

# A file with a model's name says what its version 2 does, and when: "segfault load", or "hang request" as long as the
# file is there. The event loop does not run a model whose name begins with "slow".
FAULTS = """
import ctypes, os, time
import service.engines.loading as loading
from service.inference import loop_watchdog
really = loading.load_engine
loop_watchdog.POLL_SECONDS = float(os.environ.get("POLL_SECONDS", loop_watchdog.POLL_SECONDS))
def take_all_memory():
    hoard = []
    while True:
        hoard.append(b"x" * 2**24)
ways = {"segfault": lambda: ctypes.string_at(0), "abort": os.abort, "exit": lambda: os._exit(0)}
ways |= {"memory": take_all_memory, "hang": lambda: time.sleep(0.01)}
def fault(model, when):
    file = os.path.join(os.environ["FAULTS"], model)
    while os.path.exists(file):
        with open(file) as opened:
            way, moment = opened.read().split()
        if moment != when:
            return
        ways[way]()
class Engine:
    def __init__(self, engine, model):
        self.engine, self.model = engine, model
        self.name, self.signatures, self.is_slow = engine.name, engine.signatures, model.startswith("slow")
        self.runs_on_caller = not self.is_slow
    def run(self, signature, inputs):
        time.sleep(0.005 * self.is_slow)
        if 13.0 in next(iter(inputs.values())):
            fault(self.model, "request")
        return self.engine.run(signature, inputs)
    def release(self):
        self.engine.release()
def load_engine(path, *rest):
    engine = really(path, *rest)
    if path.name != "2":
        return engine
    fault(path.parent.name, "load")
    return Engine(engine, path.parent.name)
loading.load_engine = load_engine
"""


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file in this folder with a model's name makes its version 2 faulty."""
    folder = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("FAULTS", str(folder / "models"))
        (folder / "models").mkdir()
        at_start_of_python(FAULTS, folder, monkeypatch)
        yield folder / "models"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, faults: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("service")
    publish(VERSION_1, folder / "models" / "regression" / "1")
    with running(folder / "models", folder / "log", workers=2, admin=1, poll_seconds=EAGER) as server:
        yield server


def kill_one(server: Server, victim: psutil.Process | None = None) -> None:
    """Until another has taken its place."""
    victim = victim or workers(server)[0]
    victim.kill()
    server.wait_for(lambda: len({*workers(server)} - {victim}) == 2, "it is not replaced")
    server.wait_until_all_workers_answer(2)


# Workers that are killed


def test_worker_killed_while_it_loads_holds_nobody_up(model: Model, faults: Path) -> None:
    model.publish(1)
    model.wait_for_state(1)
    (faults / model.name).write_text("hang load")
    model.publish(2)
    model.wait_for_state(2, State.LOADING)
    victim = workers(model.server)[0]
    victim.kill()
    model.server.wait_for(lambda: len({*workers(model.server)} - {victim}) == 2, "it is not replaced")
    # The new one cannot load it either.
    assert model.server.statuses(f"{model.path}:predict") == {200}
    assert model.default_versions() == {"1"}
    (faults / model.name).unlink()
    model.wait_for_default(2)
    model.server.wait_until_all_workers_answer(2)


def test_workers_that_an_operator_kills_are_no_versions_fault(model: Model) -> None:
    model.publish(1)
    model.wait_for_state(1)
    (victim, _) = workers(model.server)

    def status(connection: http.client.HTTPConnection) -> int:
        connection.request("POST", f"{model.path}:predict", json.dumps(TEN))
        with connection.getresponse() as response:
            response.read()
            return response.status

    with ExitStack() as stack, asking(model.server, f"{model.path}:predict") as outcomes:
        kept = [http.client.HTTPConnection("127.0.0.1", model.server.port, timeout=DEADLINE_SECONDS) for _ in range(16)]
        for connection in kept:
            stack.callback(connection.close)
            assert status(connection) == 200
        lost = clients_of(victim)
        kill_one(model.server, victim)
        for connection in kept:
            if connection.sock.getsockname()[1] not in lost:
                assert status(connection) == 200
        kill_one(model.server)
    # A worker that died took what it had accepted with it; there was always another.
    assert set(outcomes) <= {"200", "ConnectionResetError", "RemoteDisconnected"}, outcomes
    assert model.state(1) is State.AVAILABLE
    assert f"{model.name} version 1 is ended" not in model.server.log.read_text()


# Versions that kill the worker that loads or runs them


def kill_by_version_2(model: Model, faults: Path, way: str, when: str) -> None:
    """Two workers; version 1 is served meanwhile."""
    server = model.server
    (faults / model.name).write_text(f"{way} {when}")

    def is_ended() -> bool:
        # Whichever worker answers may be the next to die.
        with suppress(OSError, http.client.HTTPException):
            if when == "request":
                assert server.request(model.version_path(2), THIRTEEN).status in (404, 503)
            return DIED_OF_IT in server.request(model.path).body.decode()
        # Never both at once.
        server.wait_until_all_workers_answer(2)
        return False

    with asking(server, model.version_path(1)) as outcomes:
        model.publish(2)
        if when == "request":
            model.wait_for_default(2)
        server.wait_for(is_ended, "it is not ended")
        server.wait_until_all_workers_answer(2)
    model.failure(2, DIED_OF_IT)
    assert model.default_versions() == {"1"}
    assert outcomes["200"] > 0
    assert set(outcomes) <= {"200", "ConnectionResetError", "RemoteDisconnected"}, outcomes
    # A death that could be of either version counts half: the kernel, short of memory, ends which worker it likes.
    assert 2 <= server.sample(f'serving_model_deaths_total{{model="{model.name}",version="2"}}') < 3
    assert f"{model.name} version 2 is ended: " in server.log.read_text()


@pytest.mark.parametrize(("way", "when"), [("exit", "load"), ("abort", "request")])
def test_version_that_kills_two_workers_is_ended(model: Model, faults: Path, way: str, when: str) -> None:
    server = model.server
    model.publish(1)
    model.wait_for_state(1)
    kill_by_version_2(model, faults, way, when)
    # A worker that begins knows it, too.
    kill_one(server)
    model.failure(2, DIED_OF_IT)
    (faults / model.name).unlink()
    assert server.request(f"/v2/repository/models/{model.name}/load", b"{}").status == 200
    assert model.default_versions() == {"2"}
    assert server.request(model.version_path(2), THIRTEEN).status == 200


def test_version_that_kills_workers_as_they_begin_does_not_prevent_the_start(
    models: Path, tmp_path: Path, faults: Path
) -> None:
    (models / "regression").rename(models / "deadly")
    shutil.copytree(VERSION_1, models / "deadly" / "2")
    (faults / "deadly").write_text("segfault load")
    with running(models, tmp_path / "log", poll_seconds=EAGER) as server:
        model = Model(server, "deadly")
        model.failure(2, DIED_OF_IT)
        assert model.predict() == 200
        # With other files it is another version.
        (faults / "deadly").unlink()
        (model.folder / "2" / "saved_model.pb").touch()
        model.wait_for_default(2)


@pytest.fixture
def limited() -> Iterator[Path]:
    """A cgroup with a limit of memory, of either version."""
    root = Path("/sys/fs/cgroup")
    own = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    found = [(controllers, path) for _, controllers, path in own if controllers in ("", "memory")]
    for controllers, path in sorted(found, reverse=True):
        folder = root / controllers / path.lstrip("/") / f"fitting-room-{os.getpid()}"
        limit = folder / ("memory.limit_in_bytes" if controllers else "memory.max")
        with suppress(OSError):
            folder.mkdir()
            if limit.exists():
                limit.write_text(str(MEMORY))
                yield folder
                folder.rmdir()
                return
            folder.rmdir()
    pytest.skip("no cgroup can be made here")


def test_version_that_takes_all_memory_is_ended(models: Path, tmp_path: Path, faults: Path, limited: Path) -> None:
    with running(models, tmp_path / "log", workers=2, poll_seconds=EAGER) as server:
        for pid in (server.process.pid, *(worker.pid for worker in workers(server))):
            (limited / "cgroup.procs").write_text(str(pid))
        kill_by_version_2(Model(server, "regression"), faults, "memory", "request")
        assert "killed by the kernel, for it took too much memory" in server.log.read_text()
    (faults / "regression").unlink()


# Versions that hang


def test_version_that_hangs_gets_no_requests_until_it_runs_again_and_nobody_else_notices(
    tmp_path: Path, faults: Path
) -> None:
    for name in ("quick", "slow", "slow_too"):
        shutil.copytree(VERSION_1, tmp_path / "models" / name / "2")
    settings = {"request_timeout_ms": 2000, "unhealthy_after": 1, "threads": 8}
    with running(tmp_path / "models", tmp_path / "log", **settings) as server, ThreadPoolExecutor(40) as pool:
        slow, slow_too, quick = (Model(server, name) for name in ("slow", "slow_too", "quick"))

        def is_ready(model: Model) -> bool:
            return server.request(f"/v2/models/{model.name}/ready").status == 200

        def healthy(model: Model) -> float:
            return server.sample(f'serving_model_healthy{{model="{model.name}",version="2"}}')

        (faults / "slow").write_text("hang request")
        hanging = [pool.submit(server.request, f"{slow.path}:predict", THIRTEEN) for _ in range(30)]
        others = [pool.submit(slow_too.predict) for _ in range(4)]
        assert [status.result() for status in others] == [200] * 4
        assert quick.predict() == 200
        assert {answer.result().status for answer in hanging} <= {503, 504}
        server.wait_for(lambda: slow.predict() == 503, "it still gets requests")
        refused = server.request(f"{slow.path}:predict", TEN)
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        assert "slow version 2 is unhealthy" in refused.json()["error"]
        assert [is_ready(model) for model in (slow, slow_too, quick)] == [False, True, True]
        assert server.request("/v2/health/ready").status == 200
        assert (healthy(slow), healthy(slow_too)) == (0, 1)
        server.wait_until_logged("slow version 2 is unhealthy")
        (faults / "slow").unlink()
        server.wait_for(lambda: slow.predict() == 200, "it never answers again")
        assert (is_ready(slow), healthy(slow)) == (True, 1)
        server.wait_until_logged("slow version 2 is healthy again")


def test_version_that_hangs_on_the_event_loop_costs_one_worker_once(
    tmp_path: Path, faults: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A second instead of five until a worker gives up.
    monkeypatch.setenv("POLL_SECONDS", "0.05")
    shutil.copytree(VERSION_1, tmp_path / "models" / "quick" / "2")
    settings = {"request_timeout_ms": 1000, "unhealthy_after": 1, "workers": 2}
    with running(tmp_path / "models", tmp_path / "log", **settings) as server:
        path = "/v1/models/quick:predict"
        (faults / "quick").write_text("hang request")
        with pytest.raises((OSError, http.client.HTTPException)):
            server.request(path, THIRTEEN)
        server.wait_until_logged("quick version 2 has held up everybody for 1 s and cannot be stopped")
        server.wait_until_logged("exited with code 1")
        server.wait_until_all_workers_answer(2)
        assert server.statuses(path) == {200}
        # Now threads run it, and each worker finds out for itself.
        assert {server.request(path, THIRTEEN).status for _ in range(5)} <= {503, 504}
        assert server.log.read_text().count("and cannot be stopped") == 1
        assert server.request("/v2/health/ready").status == 200
        (faults / "quick").unlink()


# Files and clocks


def set_room_on_disk(server: Server, size: int) -> None:
    """None of the service's processes can write a file beyond that, as if the disk were full."""
    for process in (psutil.Process(server.process.pid), *workers(server)):
        _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, most))


def test_on_a_full_disk_requests_are_answered_and_workers_replaced(model: Model) -> None:
    server = model.server
    model.publish(1)
    model.wait_for_state(1)
    set_room_on_disk(server, 0)
    logged = server.log.stat().st_size
    model.publish(2)
    model.wait_for_default(2)
    assert server.statuses("/v1/models/nowhere:predict") == {404}
    kill_one(server)
    assert server.statuses(f"{model.path}:predict") == {200}
    assert server.sample(f'serving_model_state{{model="{model.name}",state="AVAILABLE",version="2"}}') == 1
    assert server.log.stat().st_size == logged
    set_room_on_disk(server, resource.RLIM_INFINITY)
    assert server.statuses(f"{model.path}:predict") == {200}
    server.wait_for(lambda: server.log.stat().st_size > logged, "the log does not go on")


def test_workers_end_with_their_first_process_and_no_temporary_file_is_ever_there(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with running(models, tmp_path / "log") as server:
        assert server.statuses() == {200}
        assert list(temporary.iterdir()) == []
        orphans = workers(server)
        with socket.create_connection(("127.0.0.1", server.port), DEADLINE_SECONDS) as idle:
            server.process.kill()
            server.process.wait(DEADLINE_SECONDS)
            assert psutil.wait_procs(orphans, DEADLINE_SECONDS) == (orphans, [])
            assert list(temporary.iterdir()) == []
            assert idle.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), DEADLINE_SECONDS)


DAY = 86400
# A file says by how many seconds the clock is off; there is no temporary folder either.
JUMPING_CLOCK = """
import os, tempfile, time
really = time.time
def jumped():
    try:
        with open(os.environ["CLOCK"]) as offset:
            return really() + float(offset.read())
    except OSError:
        return really()
time.time, time.time_ns = jumped, lambda: int(jumped() * 1e9)
tempfile._candidate_tempdir_list = lambda: []
"""


def test_jumping_clock_changes_dates_alone_and_no_temporary_folder_is_needed(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOCK", str(tmp_path / "clock"))
    at_start_of_python(JUMPING_CLOCK, tmp_path, monkeypatch)
    with (
        running(models, tmp_path / "log", workers=2, admin=1, poll_seconds=EAGER) as server,
        socket.create_connection(("127.0.0.1", server.port), DEADLINE_SECONDS) as kept,
    ):
        model = Model(server, "regression")
        command = f"/v2/repository/models/{model.name}"

        def ask_kept() -> None:
            kept.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert kept.recv(4096).startswith(b"HTTP/1.1 200")

        def today() -> int:
            return parsedate_to_datetime(server.request("/v2/health/live").headers["date"]).toordinal()

        server.wait_until_logged("there is no temporary folder to write to")
        # A connection that was used once may stay idle for longer.
        ask_kept()
        before = today()
        for version, days in enumerate((365, -365), 2):
            assert server.request(f"{command}/unload", b"{}").status == 200
            (draft := tmp_path / ".clock").write_text(str(days * DAY))
            draft.rename(tmp_path / "clock")
            assert abs(today() - before - days) <= 1
            # A command is answered once every worker has obeyed.
            assert server.request(f"{command}/load", b"{}").status == 200
            assert server.statuses() == {200}
            model.publish(version)
            model.wait_for_default(version)
            ask_kept()
        kill_one(server)
        assert model.requests(1) == 20
        assert "Traceback" not in server.log.read_text()
