"""Workers that are killed, versions that kill them, disks that are full, files that vanish, a clock that jumps."""

import http.client
import json
import os
import resource
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path

import psutil
import pytest

from service.inference.version import State
from tests.integration.models import VERSION_1, Model, asking, publish
from tests.integration.server import (
    DEADLINE_SECONDS,
    SHIPPED,
    TEN,
    Server,
    at_start_of_python,
    clients_of,
    is_answered_by,
    running,
    wait_for,
    workers,
)

DIED_OF_IT = "worker processes died of it"
MEMORY = 600 * 2**20
THIRTEEN = {"instances": [13.0]}

# A file with a model's name says what its version 2 does, and when: "segfault load".
FAULTS = """
import ctypes, os, time
import service.engines.loading as loading
really = loading.load_engine
def take_all_memory():
    hoard = []
    while True:
        hoard.append(b"x" * 2**24)
ways = {"segfault": lambda: ctypes.string_at(0), "abort": os.abort, "exit": lambda: os._exit(0)}
ways |= {"memory": take_all_memory, "slow": lambda: time.sleep(0.01)}
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
        self.name, self.signatures, self.runs_on_caller = engine.name, engine.signatures, engine.runs_on_caller
    def run(self, signature, inputs):
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
    with running(folder / "models", folder / "log", workers=2, admin=1) as server:
        yield server


def wait_until_replaced(server: Server, *gone: psutil.Process) -> None:
    server.wait_for(lambda: len(set(workers(server)) - set(gone)) == 2, "it is not replaced")
    server.wait_until_all_workers_answer(2)


# Workers that are killed


@dataclass
class Load:
    """Clients that ask without a pause, each on one connection as long as it lives. `failed`: when connections that
    broke with a request on its way were made, and by which port."""

    model: Model
    answered: int = 0
    failed: list[tuple[float, int]] = field(default_factory=list)
    other_statuses: list[int] = field(default_factory=list)
    _stopped: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ask_until_stopped(self) -> None:
        while not self._stopped:
            connection = http.client.HTTPConnection("127.0.0.1", self.model.server.port, timeout=DEADLINE_SECONDS)
            made, port = time.monotonic(), 0
            try:
                connection.connect()
                port = connection.sock.getsockname()[1]
                while not self._stopped:
                    connection.request("POST", f"{self.model.path}:predict", json.dumps(TEN))
                    response = connection.getresponse()
                    response.read()
                    with self._lock:
                        if response.status == 200:
                            self.answered += 1
                        else:
                            self.other_statuses.append(response.status)
            except (OSError, http.client.HTTPException):
                with self._lock:
                    self.failed.append((made, port))
            finally:
                connection.close()

    @contextmanager
    def running(self, clients: int) -> Iterator[None]:
        threads = [threading.Thread(target=self.ask_until_stopped) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            self.wait_for_more(20 * clients)
            yield
        finally:
            self._stopped = True
            for thread in threads:
                thread.join()

    def wait_for_more(self, answers: int) -> None:
        enough = self.answered + answers
        wait_for(lambda: self.answered >= enough, lambda: f"{self.answered} answers, {len(self.failed)} failed")


def test_killed_worker_loses_what_it_was_answering_and_nothing_else(model: Model) -> None:
    server = model.server
    model.publish(1)
    model.wait_for_state(1)
    load = Load(model)
    counted: list[float] = []
    with load.running(16):
        victim, other = workers(server)
        # A connection that is not accepted yet is nobody's.
        server.wait_for(lambda: len(clients_of(victim) | clients_of(other)) >= 16, "not all are accepted")
        lost = clients_of(victim)
        assert load.failed == []
        killed = time.monotonic()
        victim.kill()
        victim.wait(DEADLINE_SECONDS)
        gone = time.monotonic()
        server.wait_for(lambda: set(workers(server)) - {victim, other} != set(), "it is not replaced")
        (new,) = set(workers(server)) - {victim, other}
        server.wait_for(lambda: is_answered_by(new, server.port), "the new worker does not answer")
        load.wait_for_more(200)
        counted += [model.requests(1) for _ in range(20)]
    assert load.other_statuses == []
    # A process that is being ended still takes connections, and then resets them.
    assert [one for one in load.failed if one[1] not in lost and not killed <= one[0] <= gone] == []
    # What was counted may not have reached its client any more.
    assert load.answered <= model.requests(1) <= load.answered + len(load.failed)
    assert counted == sorted(counted)
    assert server.sample("serving_workers") == 2


def test_worker_killed_while_it_loads_holds_nobody_up(model: Model, faults: Path) -> None:
    model.publish(1)
    model.wait_for_state(1)
    (faults / model.name).write_text("slow load")
    model.publish(2)
    model.wait_for_state(2, State.LOADING)
    victim = workers(model.server)[0]
    victim.kill()
    model.server.wait_for(lambda: len({*workers(model.server)} - {victim}) == 2, "it is not replaced")
    # The new one cannot load it either, and the old version is served.
    assert model.server.statuses(f"{model.path}:predict") == {200}
    assert model.default_versions() == {"1"}
    (faults / model.name).unlink()
    model.wait_for_default(2)
    model.server.wait_until_all_workers_answer(2)


def test_workers_that_an_operator_kills_are_no_versions_fault(model: Model) -> None:
    model.publish(1)
    model.wait_for_state(1)
    with asking(model.server, f"{model.path}:predict"):
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            victim = workers(model.server)[0]
            victim.send_signal(number)
            wait_until_replaced(model.server, victim)
    assert model.state(1) is State.AVAILABLE
    assert f"{model.name} version 1 is ended" not in model.server.log.read_text()


def test_worker_that_begins_after_a_version_was_written_over_answers_as_its_neighbours(model: Model) -> None:
    server = model.server
    picture = (SHIPPED / "clothing/2/assets.extra/sample.png").read_bytes()
    model.publish(1, SHIPPED / "clothing" / "1")
    model.wait_for_state(1)

    def answers() -> set[bytes]:
        return {server.request(f"{model.path}:predict", picture, "image/png").body for _ in range(20)}

    (before,) = answers()
    shutil.copytree(SHIPPED / "clothing/2", model.folder / "1", dirs_exist_ok=True)
    server.wait_until_logged("its files have changed since it was loaded")
    assert answers() == {before}
    victim = workers(server)[0]
    victim.kill()
    wait_until_replaced(server, victim)
    server.wait_until_logged(f"{model.name} version 1 is replaced")
    (after,) = answers()
    assert after != before
    assert server.log.read_text().count("its files have changed") == 1


# Versions that kill the worker that loads or runs them


def wait_until_ended(model: Model) -> None:
    """Whichever worker answers may be the next to die."""

    def is_ended() -> bool:
        with suppress(OSError, http.client.HTTPException):
            return DIED_OF_IT in model.server.request(model.path).body.decode()
        return False

    model.server.wait_for(is_ended, "it is not ended")
    model.server.wait_until_all_workers_answer(2)


def ask_until_ended(model: Model) -> None:
    """Requests that version 2 dies of."""

    def is_ended() -> bool:
        with suppress(OSError, http.client.HTTPException):
            status = model.server.request(model.version_path(2), THIRTEEN).status
            assert status in (503, 404)
        with suppress(OSError, http.client.HTTPException):
            return model.state(2) is State.END
        return False

    model.server.wait_for(is_ended, "it is not ended")


def check_others_serve(model: Model, outcomes: Counter[str]) -> None:
    model.failure(2, DIED_OF_IT)
    assert model.default_versions() == {"1"}
    assert outcomes["200"] > 0
    # A worker that died took what it had accepted with it; there was always another.
    assert set(outcomes) <= {"200", "ConnectionResetError", "RemoteDisconnected"}, outcomes
    assert model.server.sample(f'serving_model_deaths_total{{model="{model.name}",version="2"}}') == 2
    assert f"{model.name} version 2 is ended: 2 worker processes died of it" in model.server.log.read_text()


def kill_by_version_2(model: Model, faults: Path, way: str, when: str) -> None:
    (faults / model.name).write_text(f"{way} {when}")
    with asking(model.server, model.version_path(1)) as outcomes:
        model.publish(2)
        if when == "request":
            model.wait_for_default(2)
            ask_until_ended(model)
        wait_until_ended(model)
    check_others_serve(model, outcomes)


@pytest.mark.parametrize(
    ("way", "when"), [("segfault", "load"), ("exit", "load"), ("segfault", "request"), ("abort", "request")]
)
def test_version_that_kills_two_workers_is_ended(model: Model, faults: Path, way: str, when: str) -> None:
    server = model.server
    model.publish(1)
    model.wait_for_state(1)
    kill_by_version_2(model, faults, way, when)
    # A worker that begins knows it, too.
    before = workers(server)[0]
    before.kill()
    wait_until_replaced(server, before)
    model.failure(2, DIED_OF_IT)
    (faults / model.name).unlink()
    assert server.request(f"/v2/repository/models/{model.name}/load", b"{}").status == 200
    assert model.default_versions() == {"2"}
    assert server.request(model.version_path(2), THIRTEEN).status == 200


def test_graph_that_aborts_is_ended(model: Model, tmp_path: Path) -> None:
    from tests.integration.saved_models import save_abort

    model.publish(1)
    model.wait_for_state(1)
    save_abort(tmp_path / "abort")
    with asking(model.server, model.version_path(1)) as outcomes:
        (tmp_path / "abort").rename(model.folder / "2")
        ask_until_ended(model)
        wait_until_ended(model)
    check_others_serve(model, outcomes)


def test_version_that_kills_workers_as_they_begin_does_not_prevent_the_start(
    models: Path, tmp_path: Path, faults: Path
) -> None:
    (models / "regression").rename(models / "deadly")
    shutil.copytree(VERSION_1, models / "deadly" / "2")
    (faults / "deadly").write_text("segfault load")
    with running(models, tmp_path / "log") as server:
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
    publish(VERSION_1, models / "second" / "1")
    with running(models, tmp_path / "log", workers=2) as server:
        for pid in (server.process.pid, *(worker.pid for worker in workers(server))):
            (limited / "cgroup.procs").write_text(str(pid))
        kill_by_version_2(Model(server, "regression"), faults, "memory", "load")
        kill_by_version_2(Model(server, "second"), faults, "memory", "request")
        assert "killed by the kernel, for it took too much memory" in server.log.read_text()
    for file in faults.iterdir():
        file.unlink()


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
    assert server.statuses(f"{model.path}:predict") == {200}
    victim = workers(server)[0]
    victim.kill()
    wait_until_replaced(server, victim)
    assert server.statuses(f"{model.path}:predict") == {200}
    assert server.sample(f'serving_model_state{{model="{model.name}",state="AVAILABLE",version="2"}}') == 1
    assert server.log.stat().st_size == logged
    set_room_on_disk(server, resource.RLIM_INFINITY)
    assert server.statuses(f"{model.path}:predict") == {200}
    server.wait_for(lambda: server.log.stat().st_size > logged, "the log does not go on")


def test_temporary_folder_that_is_emptied_costs_nothing(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with running(models, tmp_path / "log", workers=2) as server:
        model = Model(server, "regression")
        assert server.statuses() == {200}
        # With all that is in it.
        shutil.rmtree(temporary)
        model.publish(2)
        model.wait_for_default(2)
        victim = workers(server)[0]
        victim.kill()
        wait_until_replaced(server, victim)
        assert server.statuses() == {200}
        assert (model.requests(1), model.requests(2)) == (20, 20)


def test_workers_end_with_the_process_that_watches_over_them_and_leave_nothing(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with running(models, tmp_path / "log", workers=2) as server:
        orphans = workers(server)
        with socket.create_connection(("127.0.0.1", server.port), DEADLINE_SECONDS) as idle:
            server.process.kill()
            server.process.wait(DEADLINE_SECONDS)
            gone, alive = psutil.wait_procs(orphans, DEADLINE_SECONDS)
            assert (len(gone), alive) == (2, [])
            assert list(temporary.iterdir()) == []
            assert idle.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), DEADLINE_SECONDS)


LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
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
        running(models, tmp_path / "log", workers=2, admin=1) as server,
        socket.create_connection(("127.0.0.1", server.port), DEADLINE_SECONDS) as kept,
    ):
        model = Model(server, "regression")

        def ask_kept() -> None:
            kept.sendall(LIVE)
            assert kept.recv(4096).startswith(b"HTTP/1.1 200")

        def today() -> int:
            return parsedate_to_datetime(server.request("/v2/health/live").headers["date"]).toordinal()

        server.wait_until_logged("there is no temporary folder to write to")
        # A connection that was used once may stay idle for longer.
        ask_kept()
        before = today()
        for version, days in enumerate((365, -365), 2):
            command = f"/v2/repository/models/{model.name}"
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
        assert len(workers(server)) == 2
        assert "Traceback" not in server.log.read_text()
