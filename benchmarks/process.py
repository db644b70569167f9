"""A server under test: start it on given cores, send it requests, read its CPU time and memory, stop it."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import psutil

from benchmarks.servers import Server

START_SECONDS = 60
# Some servers answer so while they load a model; after this long it is final.
FINAL_STATUSES, FINAL_SECONDS = (404, 500), 15
STOP_SECONDS = 10

Value = TypeVar("Value")


class LeftOut(SystemExit):
    """A server that cannot be measured here, and why. Uncaught, it ends the command with this message."""


@dataclass(frozen=True)
class Body:
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def cores() -> tuple[int, int]:
    """One for the server, one for the load: two, whatever else the machine has, so that figures stay comparable."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise SystemExit("two cores are needed: one for the server, one for the load")
    return usable[0], usable[1]


@contextmanager
def pinned_to(*cpus: int) -> Iterator[None]:
    """What is started inside inherits these cores; so does every thread and child that it starts later."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def in_own_process(function: Callable[..., Value], *arguments: object) -> Value:
    """What the function returns. Here NumPy and TensorFlow are never loaded: of pages that a server shares with this
    process, its proportional memory would count only half."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def command_line(server: Server, **values: object) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment. Raises LeftOut where the server's packages are not installed."""

    def filled(text: str) -> str:
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", str(value))
        return text

    folder = Path(".venv") / server.environment
    if not (folder / "installed").exists():
        raise LeftOut(f"its packages are not installed; `make {folder}/installed` does it, or says why it cannot")
    # Compiled code is kept, as for users; else every start would compile anew.
    variables = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    variables |= {name: filled(value) for name, value in server.variables.items()}
    return [str(folder / "bin" / "python"), *map(filled, server.command)], variables


@dataclass
class Running:
    """`start_seconds`: from the start of the process to its first good response."""

    port: int
    process: psutil.Popen
    start_seconds: float = 0.0

    def tree(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """User and system time of the process and all below it."""
        total = 0.0
        for process in self.tree():
            # A helper may have come and gone.
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def pss_bytes(self) -> int:
        """Proportional memory: what processes share counts once."""
        return sum(process.memory_full_info().pss for process in self.tree())

    def request(
        self, method: str, path: str, content: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body of the response, on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_SECONDS)
        try:
            connection.request(method, path, content or None, dict(headers or {}))
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def post(self, path: str, body: Body) -> int:
        """The response's status; 0 where none comes."""
        with suppress(OSError, http.client.HTTPException):
            return self.request("POST", path, body.content, body.headers)[0]
        return 0

    def stop(self) -> None:
        """End the whole tree in a bounded time: by SIGTERM, then by SIGKILL."""
        tree = []
        with suppress(psutil.NoSuchProcess):
            tree = self.tree()
            self.process.terminate()
        _, left = psutil.wait_procs(tree, timeout=STOP_SECONDS)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=STOP_SECONDS)
        self.process.wait(STOP_SECONDS)


@contextmanager
def serving(
    server: Server, path: str, body: Body, cpus: tuple[int, ...], folder: Path, workers: int = 1
) -> Iterator[Running]:
    """The server, once it has answered this body with 200. `folder` holds what it needs on disk. Raises LeftOut."""
    # Else SIGTERM would end this process without stopping the server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command, variables = command_line(server, port=port, workers=workers, folder=_prepared(server, folder))
    with tempfile.TemporaryFile() as log:
        with pinned_to(*cpus):
            began = time.perf_counter()
            running = Running(port, psutil.Popen(command, env=variables, stdout=log, stderr=subprocess.STDOUT))
        try:
            while (status := running.post(path, body)) != 200:
                waited = time.perf_counter() - began
                if running.process.poll() is not None:
                    log.seek(0)
                    raise LeftOut(f"does not start: {last_words(log.read().decode(errors='replace'))}")
                if waited > (FINAL_SECONDS if status in FINAL_STATUSES else START_SECONDS):
                    raise LeftOut(f"answers {path} with {status}" if status else f"does not answer {path}")
                time.sleep(0.01)
            running.start_seconds = time.perf_counter() - began
            yield running
        finally:
            running.stop()


def _prepared(server: Server, folder: Path) -> Path:
    """What the server needs on disk; servers with the same needs share it."""
    if server.prepare is None:
        return folder
    made = folder / server.prepare.__name__
    if not made.exists():
        try:
            in_own_process(server.prepare, made)
        except Exception as problem:
            raise LeftOut(f"cannot be prepared: {problem}") from problem
    return made


def last_words(output: str) -> str:
    """The last error in what a process printed, else its last line."""
    lines = output.strip().splitlines() or ["it printed nothing"]
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception|NotFound): ", line)]
    return (errors or lines)[-1].strip().rstrip(".")[:200]
