"""Worker processes that are killed, and the one that watches over them."""

import http.client
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from service.inference.version import State
from tests.integration.conftest import SHIPPED
from tests.integration.server import (
    DEADLINE_SECONDS,
    at_start_of_python,
    clients_of,
    is_answered_by,
    running,
    wait_for,
    workers,
)
from tests.integration.test_lifecycle import publish, state
from tests.integration.test_versions import answering, sample

TEN = json.dumps({"instances": [10.0]}).encode()
PREDICT = "/v1/models/regression:predict"
VERSION_1 = SHIPPED / "regression" / "1"
REQUESTS = 'serving_requests_total{model="regression",protocol="v1",status="200",verb="predict",version="1"}'


@dataclass
class Load:
    """Clients that ask without a pause, each on one connection as long as it lives. `failed`: when connections that
    broke with a request on its way were made, and by which port."""

    port: int
    answered: int = 0
    longest_seconds: float = 0.0
    failed: list[tuple[float, int]] = field(default_factory=list)
    other_statuses: list[int] = field(default_factory=list)
    _is_over: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ask_until_over(self) -> None:
        while not self._is_over:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_SECONDS)
            made, port = time.monotonic(), 0
            try:
                connection.connect()
                port = connection.sock.getsockname()[1]
                while not self._is_over:
                    asked = time.monotonic()
                    connection.request("POST", PREDICT, TEN)
                    response = connection.getresponse()
                    response.read()
                    with self._lock:
                        self.longest_seconds = max(self.longest_seconds, time.monotonic() - asked)
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
        threads = [threading.Thread(target=self.ask_until_over) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            self.wait_for_more(20 * clients)
            yield
        finally:
            self._is_over = True
            for thread in threads:
                thread.join()

    def wait_for_more(self, answers: int) -> None:
        enough = self.answered + answers
        wait_for(lambda: self.answered >= enough, lambda: f"{self.answered} answers, {len(self.failed)} failed")


def test_a_killed_worker_loses_what_it_was_answering_and_nothing_else(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path / "log", workers=2) as server:
        load = Load(server.port)
        counted: list[float] = []
        with load.running(16):
            victim, other = workers(server)
            # One that is connected and not accepted yet is nobody's.
            server.wait_for(lambda: len(clients_of(victim) | clients_of(other)) == 16, "not all are accepted")
            lost = clients_of(victim)
            assert load.failed == []
            killed = time.monotonic()
            victim.kill()
            victim.wait(DEADLINE_SECONDS)
            gone = time.monotonic()
            server.wait_for(lambda: set(workers(server)) - {victim, other} != set(), "it is not replaced")
            (new,) = set(workers(server)) - {victim, other}
            server.wait_for(lambda: is_answered_by(new, server.port), "the new worker does not answer")
            back_after = time.monotonic() - killed
            load.wait_for_more(200)
            counted += [sample(server, REQUESTS) for _ in range(20)]
        assert load.other_statuses == []
        # A process that is being ended still takes connections, and then resets them.
        assert [one for one in load.failed if one[1] not in lost and not killed <= one[0] <= gone] == []
        # What was counted may not have reached its client any more.
        assert load.answered <= sample(server, REQUESTS) <= load.answered + len(load.failed)
        assert counted == sorted(counted)
        assert sample(server, "serving_workers") == 2
        longest = f"no other took longer than {load.longest_seconds:.2f} s"
        print(f"\n{len(load.failed)} of {load.answered} requests lost, {longest}; both back after {back_after:.2f} s")


SLOW_LOADING = """
import os, sys, time
sys.path.insert(0, os.getcwd())
import service.engines.loading
really = service.engines.loading.load_engine
def load_engine(path, *rest):
    while path.name == "2" and os.path.exists(os.environ["SLOW"]):
        time.sleep(0.01)
    return really(path, *rest)
service.engines.loading.load_engine = load_engine
"""


def test_a_worker_killed_while_it_loads_holds_nobody_up(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (slow := tmp_path / "slow").touch()
    monkeypatch.setenv("SLOW", str(slow))
    at_start_of_python(SLOW_LOADING, tmp_path, monkeypatch)
    with running(models, tmp_path / "log", workers=2) as server:
        publish(VERSION_1, models / "regression" / "2")
        server.wait_for(lambda: state(server, "regression", 2) is State.LOADING, "version 2 is not loaded")
        victim = workers(server)[0]
        victim.kill()
        server.wait_for(lambda: len({*workers(server)} - {victim}) == 2, "it is not replaced")
        # The new one cannot load it either, and the old version is served.
        assert {server.request(PREDICT, TEN).status for _ in range(20)} == {200}
        assert answering(server) == {"1"}
        slow.unlink()
        server.wait_for(lambda: answering(server) == {"2"}, "version 2 is not served")
        server.wait_until_all_workers_answer(2)


def test_all_workers_killed_at_once_are_replaced_and_counted(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path / "log", workers=2) as server:
        for _ in range(50):
            assert server.request(PREDICT, TEN).status == 200
        for worker in workers(server):
            worker.kill()
        server.wait_until_all_workers_answer(2)
        assert server.request(PREDICT, TEN).status == 200
        server.wait_for(lambda: sample(server, REQUESTS) == 51, "what the killed ones counted is lost")
        assert sample(server, 'serving_model_state{model="regression",state="AVAILABLE",version="1"}') == 1


def test_workers_end_with_the_one_that_watches_over_them_and_leave_nothing(
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


def test_a_worker_that_begins_after_a_version_was_written_over_answers_as_its_neighbours_do(tmp_path: Path) -> None:
    picture = (SHIPPED / "clothing/2/assets.extra/sample.png").read_bytes()
    shutil.copytree(SHIPPED / "clothing/1", version := tmp_path / "models/clothing/1")
    with running(tmp_path / "models", tmp_path / "log", workers=3, poll_seconds=0.1) as server:

        def answers() -> set[bytes]:
            path = "/v1/models/clothing:predict"
            return {server.request(path, picture, "image/png").body for _ in range(40)}

        (before,) = answers()
        shutil.copytree(SHIPPED / "clothing/2", version, dirs_exist_ok=True)
        server.wait_until_logged("its files have changed since it was loaded")
        assert answers() == {before}
        victim, *others = workers(server)
        victim.kill()
        victim.wait(DEADLINE_SECONDS)
        server.wait_for(lambda: len(set(workers(server)) - {victim, *others}) == 1, "it is not replaced")
        server.wait_for(lambda: server.log.read_text().count("version 1 is replaced") == 2, "the others do not follow")
        server.wait_until_all_workers_answer(3)
        (after,) = answers()
        assert after != before
        assert server.log.read_text().count("its files have changed") == 1
