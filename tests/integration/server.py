"""The service as its users start it: `python -m service`, gunicorn, real HTTP."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from service.stores.fetcher import PROCESS_NAME

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "models"
DEADLINE_SECONDS = 60
# `poll_seconds` of a service whose models, policies or keys change. It costs 8 % of a core for as long as it runs.
EAGER = 0.05
PREDICT = "/v1/models/regression:predict"
TEN = {"instances": [10.0]}


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    headers: Mapping[str, str]

    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    port: int, path: str, body: object = None, headers: Mapping[str, str] | None = None, method: str | None = None
) -> Answer:
    """A GET without a body, a POST with one, unless another method is given: bytes as they are, anything else as
    JSON."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, dict(headers or {}), method=method)
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_SECONDS) as response:
            return Answer(response.status, response.read(), dict(response.headers))
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read(), dict(error.headers))


@dataclass(frozen=True)
class Server:
    """`operations_port`: where health and metrics are; the main one, unless they have one of their own."""

    models: Path
    port: int
    process: "subprocess.Popen[str]"
    log: Path
    operations_port: int

    def request(
        self,
        path: str,
        body: object = None,
        content_type: str = "application/json",
        *,
        headers: Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> Answer:
        return ask(port or self.port, path, body, {"Content-Type": content_type, **(headers or {})})

    def statuses(self, path: str = PREDICT, times: int = 20, headers: Mapping[str, str] | None = None) -> set[int]:
        """Of POST requests with TEN, each on a connection of its own: any worker may answer."""
        return {self.request(path, TEN, headers=headers).status for _ in range(times)}

    def sample(self, series: str) -> float:
        """A series of the metrics page, named with all its labels; 0 where there is none."""
        page = self.request("/metrics", port=self.operations_port).body.decode()
        found = re.search(rf"^{re.escape(series)} (\S+)$", page, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        wait_for(condition, lambda: f"{what}; the service's log:\n{self.log.read_text()}")

    def wait_until_logged(self, text: str) -> None:
        """A thread writes the log: a line may come after the answer that shows what it tells of."""
        self.wait_for(lambda: text in self.log.read_text(), f"{text!r} is not logged")

    def wait_until_all_workers_answer(self, count: int) -> None:
        """Who asks next may be answered by any of them. Those that are being ended, or replaced, do not count."""
        answering: set[psutil.Process] = set()

        def all_answer() -> bool:
            assert self.process.poll() is None, f"the service ended:\n{self.log.read_text()}"
            living = set(workers(self))
            # One that has just been killed takes connections, and resets them.
            with suppress(OSError, psutil.Error):
                answering.update({worker for worker in living if is_answered_by(worker, self.operations_port)})
            return len(living) == count and living <= answering

        self.wait_for(all_answer, "not all workers answer")


def wait_for(condition: Callable[[], bool], failure: Callable[[], str]) -> None:
    """Polls the condition until it holds; fails the test at the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, failure()
        time.sleep(0.04)


@contextmanager
def in_a_thread(server: ThreadingHTTPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def workers(server: Server) -> list[psutil.Process]:
    return [one for one in psutil.Process(server.process.pid).children() if not is_fetcher(one)]


def is_fetcher(process: psutil.Process) -> bool:
    """Whether it is the one that fetches models."""
    with suppress(psutil.NoSuchProcess):
        return process.name() == PROCESS_NAME
    return False


def clients_of(worker: psutil.Process) -> set[int]:
    """The ports of those who are connected to it, also of who has left while it has not noticed yet."""
    connections = worker.net_connections("tcp")
    return {one.raddr.port for one in connections if one.status != psutil.CONN_LISTEN}


def is_answered_by(worker: psutil.Process, port: int) -> bool:
    """Whether a connection that is made now is with it, and it is ready. `port`: where health is."""
    with socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS) as client:
        own = client.getsockname()[1]
        client.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n")
        return client.recv(4096).startswith(b"HTTP/1.1 200") and own in clients_of(worker)


@contextmanager
def running(models: Path, log: Path, stderr: int = subprocess.STDOUT, /, **settings: object) -> Iterator[Server]:
    """The service on a free port, all its workers ready; stopped with SIGTERM. Settings by their names (workers=2)."""
    port = free_port()
    given = {"models": models, "port": port, **settings}
    with started(models, log, port, [], {}, stderr, **given) as server:
        yield server


@contextmanager
def started(
    models: Path,
    log: Path,
    port: int,
    arguments: Sequence[str],
    variables: Mapping[str, str],
    stderr: int = subprocess.STDOUT,
    /,
    **settings: object,
) -> Iterator[Server]:
    """The same by other arguments and variables, which say where it listens and what it serves."""
    given = {
        "workers": 1,
        "poll_seconds": 1,
        # A busy machine is no reason to be turned away.
        "max_queue_ms": 30_000,
        **settings,
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SERVING_")}
    environment |= {f"SERVING_{name.upper()}": str(value) for name, value in given.items()} | dict(variables)
    command = [sys.executable, "-m", "service", *arguments]
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=stderr, text=True)
    try:
        server = Server(models, port, process, log, int(str(given.get("operations_port", port))))
        # The others leave clients to the first until they are as far.
        server.wait_until_all_workers_answer(int(str(given["workers"])))
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_SECONDS)


def at_start_of_python(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python that is started from now on runs the script first; one that fails at it ends."""
    (at_start := folder / "at_start").mkdir()
    (at_start / "sitecustomize.py").write_text(
        "import os, sys, traceback\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"try:\n{textwrap.indent(script, '    ')}\n"
        "except BaseException:\n    traceback.print_exc()\n    os._exit(1)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(at_start), prepend=os.pathsep)
