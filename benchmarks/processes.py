"""A server under measurement: started on named cores, asked until it answers, its CPU time read, stopped."""

import http.client
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import psutil

from benchmarks.bodies import Body
from benchmarks.servers import Server

START_SECONDS = 60
REFUSAL_SECONDS = 15
STOP_SECONDS = 10


class LeftOut(Exception):
    """A server that cannot be measured here; the message is the reason that the report gives."""


@contextmanager
def held_to(cpus: set[int]) -> Iterator[None]:
    """What is started inside inherits these cores; so does every thread and child that it starts later."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def python(server: Server) -> Path:
    """The interpreter of the server's environment. Raises LeftOut where it is not there."""
    folder = Path(".venv") / server.environment
    if not (folder / "installed").exists():
        raise LeftOut(f"its packages are not installed; `make {folder}/installed` does it, or says why it cannot")
    return folder / "bin" / "python"


def prepare(server: Server, folder: Path) -> Path:
    """What the server needs on disk, made once in `folder`; where it lies. Raises LeftOut where it cannot be made."""
    made = folder / "-".join(part for part in server.prepare if part.isidentifier() or "." in part)
    if server.prepare and not made.exists():
        command, variables = arguments(replace(server, command=server.prepare), folder=made)
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=START_SECONDS)
        if done.returncode:
            raise LeftOut(f"cannot be prepared: {last_words(done.stderr)}")
    return made


def arguments(server: Server, **values: object) -> tuple[list[str], dict[str, str]]:
    """Its command line and environment."""

    def filled(text: str) -> str:
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", str(value))
        return text

    # Compiled code is kept, as everywhere outside this machine; else every start would compile anew.
    variables = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    variables |= {name: filled(value) for name, value in server.variables.items()}
    return [str(python(server)), *map(filled, server.command)], variables


@dataclass
class Running:
    port: int
    process: psutil.Popen
    log: IO[bytes]
    start_seconds: float = 0.0
    # By what was asked: whether a good answer came.
    answered: set[str] = field(default_factory=set)

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

    def last_words(self) -> str:
        self.log.seek(0)
        return last_words(self.log.read().decode(errors="replace"))

    def ask(self, path: str, body: Body) -> str:
        """Empty for a good answer, else what came instead."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_SECONDS)
        try:
            connection.request("POST", path, body.content, body.headers)
            response = connection.getresponse()
            response.read()
            return "" if response.status == 200 else f"answers {path} with {response.status}"
        except (OSError, http.client.HTTPException) as error:
            return f"does not answer ({type(error).__name__})"
        finally:
            connection.close()


def last_words(output: str) -> str:
    """The last error in what a server printed, else its last line."""
    lines = output.strip().splitlines() or ["it said nothing"]
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception|NotFound): ", line)]
    return (errors or lines)[-1].strip().rstrip(".")[:200]


def start(server: Server, workers: int, cpus: set[int], path: str, body: Body, folder: Path) -> Running:
    """`start_seconds` runs from the start of the process to its first good answer to the body. Raises LeftOut."""
    needed = prepare(server, folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command, variables = arguments(server, port=port, workers=workers, folder=needed)
    log = tempfile.TemporaryFile()  # noqa: SIM115  # stop() closes it
    started = time.perf_counter()
    with held_to(cpus):
        process = psutil.Popen(command, env=variables, stdout=log, stderr=subprocess.STDOUT)
    running = Running(port, process, log)
    try:
        while problem := running.ask(path, body):
            if process.poll() is not None:
                raise LeftOut(f"does not start: {running.last_words()}")
            # Some answer so while they load. Much later it is their last word.
            final = problem.endswith(("404", "500"))
            if time.perf_counter() - started > (REFUSAL_SECONDS if final else START_SECONDS):
                raise LeftOut(problem)
            time.sleep(0.01)
    except BaseException:
        stop(running)
        raise
    running.start_seconds = time.perf_counter() - started
    return running


@contextmanager
def serving(server: Server, workers: int, cpus: set[int], path: str, body: Body, folder: Path) -> Iterator[Running]:
    """Until the end; where it cannot be measured, the command ends with the reason."""
    try:
        running = start(server, workers, cpus, path, body, folder)
    except LeftOut as problem:
        raise SystemExit(f"{server.title}: {problem}") from None
    try:
        yield running
    finally:
        stop(running)


def stop(running: Running) -> None:
    """Ends the whole tree, in a bounded time: first with a word, then without."""
    try:
        tree = running.tree()
    except psutil.NoSuchProcess:
        tree = []
    with suppress(psutil.NoSuchProcess):
        running.process.terminate()
    _, left = psutil.wait_procs(tree, timeout=STOP_SECONDS)
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=STOP_SECONDS)
    running.process.wait(STOP_SECONDS)
    running.log.close()
