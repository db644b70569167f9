"""A server under measurement: started, asked until it answers, its CPU time read, stopped."""

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

START_SECONDS = 60


@dataclass(frozen=True)
class Running:
    port: int
    process: psutil.Popen
    start_seconds: float

    def cpu_seconds(self) -> float:
        """User and system time of the process and all below it."""
        tree = [self.process, *self.process.children(recursive=True)]
        return sum(times.user + times.system for times in (process.cpu_times() for process in tree))

    def pss_bytes(self) -> int:
        """Proportional memory: what processes share counts once."""
        tree = [self.process, *self.process.children(recursive=True)]
        return sum(process.memory_full_info().pss for process in tree)


@contextmanager
def running(command: list[str], path: str, body: bytes) -> Iterator[Running]:
    """`start_seconds` runs from the start of the process to its first good answer to the body."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [argument.replace("{port}", str(port)) for argument in command]
    started = time.perf_counter()
    process = psutil.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    try:
        while not _answers(port, path, body):
            if process.poll() is not None or time.perf_counter() - started > START_SECONDS:
                raise RuntimeError(f"{' '.join(arguments)} did not come up")
            time.sleep(0.01)
        yield Running(port, process, time.perf_counter() - started)
    finally:
        process.terminate()
        process.wait()


def _answers(port: int, path: str, body: bytes) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        return connection.getresponse().status == 200
    except (ConnectionError, http.client.HTTPException):
        return False
    finally:
        connection.close()
