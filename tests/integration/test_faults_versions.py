"""Versions that kill the process that loads or runs them: by a crash, by its end, by all its memory."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

import pytest

from service.inference.version import State
from tests.integration.conftest import SHIPPED
from tests.integration.odd_saved_models import save_abort
from tests.integration.server import Server, at_start_of_python, running, workers
from tests.integration.test_lifecycle import failure, publish, state
from tests.integration.test_versions import answering, sample

TEN = json.dumps({"instances": [10.0]}).encode()
PREDICT = "/v1/models/regression:predict"
OLD, BAD = (f"/v1/models/regression/versions/{number}:predict" for number in (1, 2))
VERSION_1 = SHIPPED / "regression" / "1"
DIED_OF_IT = "worker processes died of it"
DEATHS = 'serving_model_deaths_total{model="regression",version="2"}'
MEMORY = 600 * 2**20

# As long as the file is there, version 2 kills whoever loads it, or runs it.
DEADLY = """
import ctypes, os, sys
sys.path.insert(0, os.getcwd())
import service.engines.loading
really = service.engines.loading.load_engine
def take_all_memory():
    hoard = []
    while True:
        hoard.append(b"x" * 2**24)
ways = {"segfault": lambda: ctypes.string_at(0), "abort": os.abort, "exit": lambda: os._exit(0)}
ways["memory"] = take_all_memory
def die(when):
    if os.path.exists(os.environ["DEADLY"]) and os.environ["DEADLY_WHEN"] == when:
        ways[os.environ["DEADLY_WAY"]]()
class Engine:
    def __init__(self, engine):
        self.engine = engine
        self.name, self.signatures, self.runs_on_caller = engine.name, engine.signatures, engine.runs_on_caller
    def run(self, signature, inputs):
        if 13.0 in next(iter(inputs.values())):
            die("request")
        return self.engine.run(signature, inputs)
    def release(self):
        self.engine.release()
def load_engine(path, *rest):
    engine = really(path, *rest)
    if path.name != "2":
        return engine
    die("load")
    return Engine(engine)
service.engines.loading.load_engine = load_engine
"""
THIRTEEN = json.dumps({"instances": [13.0]}).encode()


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (file := tmp_path / "deadly").touch()
    monkeypatch.setenv("DEADLY", str(file))
    at_start_of_python(DEADLY, tmp_path, monkeypatch)
    return file


@contextmanager
def asked_meanwhile(server: Server, path: str = OLD) -> Iterator[dict[str, int]]:
    """By one client after the other, each on a connection of its own: what became of them."""
    outcomes: dict[str, int] = {}
    is_cancelled = threading.Event()

    def ask() -> None:
        while not is_cancelled.is_set():
            try:
                outcome = str(server.request(path, TEN).status)
            except (OSError, HTTPException) as error:
                # urllib wraps it.
                outcome = type(getattr(error, "reason", error)).__name__
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
            is_cancelled.wait(0.01)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield outcomes
    finally:
        is_cancelled.set()
        thread.join()


def wait_until_it_is_ended(server: Server) -> None:
    """Whoever is asked may be the next to die."""

    def is_ended() -> bool:
        with suppress(OSError, HTTPException):
            return DIED_OF_IT in server.request("/v1/models/regression").body.decode()
        return False

    server.wait_for(is_ended, "it is not ended")


def ask_until_it_is_ended(server: Server) -> set[int]:
    """What those who ask the bad version are told."""
    statuses = set()

    def is_ended() -> bool:
        with suppress(OSError, HTTPException):
            statuses.add(server.request(BAD, THIRTEEN).status)
        with suppress(OSError, HTTPException):
            return state(server, "regression", 2) is State.END
        return False

    server.wait_for(is_ended, "it is not ended")
    return statuses


def check_that_all_else_serves_on(server: Server, outcomes: dict[str, int]) -> None:
    failure(server, "regression", 2, DIED_OF_IT)
    server.wait_until_all_workers_answer(2)
    assert answering(server) == {"1"}
    assert outcomes["200"] > 0
    # A worker that died took what it had accepted with it; there was always another.
    assert set(outcomes) <= {"200", "ConnectionResetError", "RemoteDisconnected"}, outcomes
    assert sample(server, DEATHS) == 2
    assert "regression version 2 is ended: 2 worker processes died of it" in server.log.read_text()


@pytest.mark.parametrize("way", ["segfault", "abort", "exit"])
@pytest.mark.parametrize("when", ["load", "request"])
def test_a_version_that_kills_its_worker_twice_is_ended_and_all_else_serves_on(
    models: Path, tmp_path: Path, deadly: Path, monkeypatch: pytest.MonkeyPatch, way: str, when: str
) -> None:
    monkeypatch.setenv("DEADLY_WAY", way)
    monkeypatch.setenv("DEADLY_WHEN", when)
    with running(models, tmp_path / "log", workers=2, admin=1) as server:
        with asked_meanwhile(server) as outcomes:
            publish(VERSION_1, models / "regression" / "2")
            if when == "request":
                server.wait_for(lambda: answering(server) == {"2"}, "version 2 is not served")
                assert ask_until_it_is_ended(server) <= {503, 404}
            wait_until_it_is_ended(server)
            server.wait_until_all_workers_answer(2)
        check_that_all_else_serves_on(server, outcomes)
        # A worker that begins knows it, too.
        before = workers(server)
        before[0].kill()
        server.wait_for(lambda: len(set(workers(server)) - {before[0]}) == 2, "it is not replaced")
        server.wait_until_all_workers_answer(2)
        failure(server, "regression", 2, DIED_OF_IT)
        deadly.unlink()
        assert server.request("/v2/repository/models/regression/load", b"{}").status == 200
        assert answering(server) == {"2"}
        assert server.request(BAD, THIRTEEN).status == 200


def test_a_version_that_kills_whoever_begins_does_not_keep_the_service_from_starting(
    models: Path, tmp_path: Path, deadly: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEADLY_WAY", "segfault")
    monkeypatch.setenv("DEADLY_WHEN", "load")
    shutil.copytree(VERSION_1, models / "regression" / "2")
    with running(models, tmp_path / "log") as server:
        failure(server, "regression", 2, DIED_OF_IT)
        assert server.request(PREDICT, TEN).status == 200
        # With other files it is another version.
        deadly.unlink()
        (models / "regression" / "2" / "saved_model.pb").touch()
        server.wait_for(lambda: answering(server) == {"2"}, "it is not tried again")


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Path]:
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


def put_into(cgroup: Path, server: Server) -> None:
    for pid in (server.process.pid, *(worker.pid for worker in workers(server))):
        (cgroup / "cgroup.procs").write_text(str(pid))


@pytest.mark.parametrize("when", ["load", "request"])
def test_a_version_that_takes_all_memory_is_ended_and_all_else_serves_on(
    models: Path, tmp_path: Path, deadly: Path, monkeypatch: pytest.MonkeyPatch, limited: Path, when: str
) -> None:
    monkeypatch.setenv("DEADLY_WAY", "memory")
    monkeypatch.setenv("DEADLY_WHEN", when)
    with running(models, tmp_path / "log", workers=2) as server:
        put_into(limited, server)
        with asked_meanwhile(server) as outcomes:
            publish(VERSION_1, models / "regression" / "2")
            if when == "request":
                server.wait_for(lambda: answering(server) == {"2"}, "version 2 is not served")
                assert ask_until_it_is_ended(server) <= {503, 404}
            wait_until_it_is_ended(server)
            server.wait_until_all_workers_answer(2)
        check_that_all_else_serves_on(server, outcomes)
        assert "killed by the kernel, for it took too much memory" in server.log.read_text()


def test_a_graph_that_aborts_is_ended_and_all_else_serves_on(models: Path, tmp_path: Path) -> None:
    save_abort(tmp_path / "abort")
    with running(models, tmp_path / "log", workers=2) as server:
        with asked_meanwhile(server) as outcomes:
            (tmp_path / "abort").rename(models / "regression" / "2")
            ask_until_it_is_ended(server)
            wait_until_it_is_ended(server)
            server.wait_until_all_workers_answer(2)
        check_that_all_else_serves_on(server, outcomes)


def test_workers_that_an_operator_kills_are_no_versions_fault(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path / "log", workers=2) as server, asked_meanwhile(server, PREDICT):
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            victim = workers(server)[0]
            victim.send_signal(number)
            server.wait_for(lambda victim=victim: len(set(workers(server)) - {victim}) == 2, "it is not replaced")  # type: ignore[misc]
            server.wait_until_all_workers_answer(2)
        assert state(server, "regression", 1) is State.AVAILABLE
        assert DIED_OF_IT not in server.log.read_text()
