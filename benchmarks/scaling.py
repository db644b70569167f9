"""What a second worker process adds, without the clients: while the service works, they sleep.

A burst of requests lies in the sockets before the workers go on, and no response is read before the last has come.
Beside one worker and two of them run two services that have one each, and share nothing: what this machine has left for
the second of two busy processes. Takes a minute. Code 1 where the target is missed.
"""

import fcntl
import socket
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean, median
from typing import Any

import psutil

from benchmarks import report
from benchmarks.bodies import body
from benchmarks.clients import http_request
from benchmarks.process import Running, cores, serving
from benchmarks.report import number
from benchmarks.servers import fitting_room

MIN_RATIO = 1.8
# For each worker, which reads as many in a tick of its event loop.
CLIENTS = 500
WARM_UP_ROUNDS, ROUNDS = 5, 100
# Polling takes the service's time.
POLL_SECONDS = 0.001
DEADLINE_SECONDS = 60
ONE, TWO, APART = "one worker", "two workers", "two services with one worker each"
Burst = tuple[float, float]


class Service:
    """A service with all its workers, and clients that are connected to them."""

    def __init__(self, workers: int, folder: Path, stack: ExitStack) -> None:
        server, path, sent = fitting_room.SERVERS["fitting_room"], fitting_room.CLOTHING, body("v1_json")
        self.running = stack.enter_context(serving(server, path, sent, cores(), folder, workers))
        self.workers = _listening(self.running, workers)
        self.sockets = [
            stack.enter_context(socket.create_connection(("127.0.0.1", self.running.port), DEADLINE_SECONDS))
            for _ in range(CLIENTS * workers)
        ]
        self._request = http_request(path, sent)

    def send(self) -> None:
        for client in self.sockets:
            client.sendall(self._request)

    def check_responses(self) -> None:
        for client in self.sockets:
            if not (response := client.recv(65536)).startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"a response is {response[:200]!r}")


def main() -> None:
    options = report.parser("benchmarks.scaling", __doc__).parse_args()
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder, ExitStack() as stack:
        one, two, other = (Service(workers, Path(folder), stack) for workers in (1, 2, 1))
        services = {ONE: [one], TWO: [two], APART: [one, other]}
        rounds = [{name: _burst(each) for name, each in services.items()} for _ in range(WARM_UP_ROUNDS + ROUNDS)]
    found = {name: _summary(rounds[WARM_UP_ROUNDS:], name) for name in services}
    sys.exit(not report.finish("scaling", found, write=not options.dry_run))


def _burst(services: list[Service]) -> Burst:
    """Requests a second, and CPU µs of one."""
    workers = [worker for service in services for worker in service.workers]
    for worker, core in zip(workers, cores(), strict=False):
        # Where several wake up at once, the scheduler takes a good part of a burst to part them.
        worker.cpu_affinity([core])
        worker.suspend()
    for service in services:
        service.send()
    missing = [client for service in services for client in service.sockets]
    count, cpu, began = len(missing), _cpu_seconds(services), time.perf_counter()
    for worker in workers:
        worker.resume()
    while missing:
        if _has_response(missing[-1]):
            missing.pop()
        elif time.perf_counter() - began > DEADLINE_SECONDS:
            raise SystemExit(f"{len(missing)} of {count} requests have no response after {DEADLINE_SECONDS} s")
        else:
            time.sleep(POLL_SECONDS)
    seconds, cpu = time.perf_counter() - began, _cpu_seconds(services) - cpu
    for service in services:
        service.check_responses()
    return count / seconds, cpu / count * 1e6


def _has_response(client: socket.socket) -> bool:
    (length,) = struct.unpack("i", fcntl.ioctl(client, termios.FIONREAD, bytes(4)))
    return bool(length)


def _cpu_seconds(services: list[Service]) -> float:
    return sum(service.running.cpu_seconds() for service in services)


def _listening(running: Running, workers: int) -> list[psutil.Process]:
    """All workers: one that comes later than the first would get none of the clients."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        found: list[psutil.Process] = running.process.children()
        listening = [
            worker
            for worker in found
            for one in worker.net_connections("tcp")
            if one.status == psutil.CONN_LISTEN and one.laddr.port == running.port
        ]
        if len(listening) == workers:
            return found
        time.sleep(0.05)
    raise SystemExit(f"not all of {workers} worker processes listen after {DEADLINE_SECONDS} s")


def _summary(rounds: list[dict[str, Burst]], name: str) -> dict[str, float]:
    """Ratios are medians of those of a round, whose bursts the machine's moods hit alike."""
    return {
        "requests_per_second": median(one[name][0] for one in rounds),
        # A single burst is a few ticks of the clock that counts it.
        "cpu_us": fmean(one[name][1] for one in rounds),
        "ratio": median(one[name][0] / one[ONE][0] for one in rounds),
        "ratio_to_apart": median(one[name][0] / one[APART][0] for one in rounds),
    }


def section(found: Mapping[str, Any]) -> list[str]:
    columns = ("requests_per_second", "cpu_us", "ratio", "ratio_to_apart")
    return [
        report.table(
            ["", "requests/s", "CPU µs a request", "requests/s ÷ one worker's", "÷ those of two services"],
            [[name, *(number(found[name][column]) for column in columns)] for name in (ONE, TWO, APART)],
        ),
        report.targets([report.target("requests/s ÷ one worker's", found[TWO]["ratio"], MIN_RATIO, at_least=True)]),
    ]


if __name__ == "__main__":
    main()
