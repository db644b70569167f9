"""What a second worker process adds, without the clients: while the service works, they sleep.

A burst of requests lies in the sockets before the workers may go on, and no answer is read before the last has come.
Beside one worker and two of them run two services that have one each, and share nothing: what this machine has left for
the second of two busy processes. Writes its section of docs/performance.md; takes a minute. Code 1 where the target is
missed.
"""

import argparse
import fcntl
import socket
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import psutil

from benchmarks import bodies, machine
from benchmarks.overload.clients import request_of
from benchmarks.processes import Running, serving
from benchmarks.report import number
from benchmarks.sections import Section
from benchmarks.servers.fitting_room import SERVER

HEADING = "## A second worker"
LEAST_RATIO = 1.8
# For each worker. It reads as many in a round of its event loop.
CLIENTS = 500
WARM_UP_ROUNDS, ROUNDS = 5, 100
# How often is looked whether the answers are there: it takes the service's time.
LOOK_SECONDS = 0.001
DEADLINE_SECONDS = 60
ONE, TWO, APART = "one worker", "two workers", "two services with one worker each"


@dataclass(frozen=True)
class Burst:
    requests_per_second: float
    cpu_us: float


class Clients:
    """Of a service with all its workers, which they are connected to."""

    def __init__(self, running: Running, workers: int, request: bytes, stack: ExitStack) -> None:
        self.running = running
        self.workers = _listening(running, workers)
        self.sockets = [
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port), DEADLINE_SECONDS))
            for _ in range(CLIENTS * workers)
        ]
        self._request = request

    def ask(self) -> None:
        for client in self.sockets:
            client.sendall(self._request)

    def check_answers(self) -> None:
        for client in self.sockets:
            if not (answer := client.recv(65536)).startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"{SERVER.title} answers {answer[:200]!r}")


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    bursts = _measure(machine.cores())
    found = {
        **machine.provenance(),
        "bursts": {title: [asdict(burst) for burst in each] for title, each in bursts.items()},
    }
    print(section(found))
    SECTION.keep(found)
    sys.exit(0 if ratio(bursts, TWO, ONE) >= LEAST_RATIO else 1)


def _measure(cores: tuple[int, int]) -> dict[str, list[Burst]]:
    route = SERVER.routes["json"]
    sent = f"{route.encoding}-1"
    with tempfile.TemporaryDirectory(prefix="scaling-") as name, ExitStack() as stack:
        folder = Path(name)
        body = bodies.make({sent}, folder)[sent]
        request = request_of(route.path, folder / sent)

        def clients(workers: int) -> Clients:
            running = stack.enter_context(serving(SERVER, workers, set(cores), route.path, body, folder))
            return Clients(running, workers, request, stack)

        one = clients(1)
        asked = {ONE: [one], TWO: [clients(2)], APART: [one, clients(1)]}
        rounds = [{title: _burst(each, cores) for title, each in asked.items()} for _ in range(WARM_UP_ROUNDS + ROUNDS)]
    return {title: [each[title] for each in rounds[WARM_UP_ROUNDS:]] for title in asked}


def _burst(asked: list[Clients], cores: tuple[int, int]) -> Burst:
    workers = [worker for clients in asked for worker in clients.workers]
    for worker, core in zip(workers, cores, strict=False):
        # Where several wake up at once, the scheduler takes a good part of a burst to part them.
        worker.cpu_affinity([core])
        worker.suspend()
    for clients in asked:
        clients.ask()
    missing = [client for clients in asked for client in clients.sockets]
    count, cpu, began = len(missing), _cpu_seconds(asked), time.perf_counter()
    for worker in workers:
        worker.resume()
    while missing:
        if _has_answer(missing[-1]):
            missing.pop()
        elif time.perf_counter() - began > DEADLINE_SECONDS:
            raise SystemExit(f"{SERVER.title} leaves {len(missing)} of {count} requests without an answer")
        else:
            time.sleep(LOOK_SECONDS)
    seconds, cpu = time.perf_counter() - began, _cpu_seconds(asked) - cpu
    for clients in asked:
        clients.check_answers()
    return Burst(count / seconds, cpu / count * 1e6)


def _has_answer(client: socket.socket) -> bool:
    (length,) = struct.unpack("i", fcntl.ioctl(client, termios.FIONREAD, bytes(4)))
    return bool(length)


def _cpu_seconds(asked: list[Clients]) -> float:
    return sum(clients.running.cpu_seconds() for clients in asked)


def _listening(running: Running, workers: int) -> list[psutil.Process]:
    """All workers: one that comes later than the first would get none of the clients."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        found: list[psutil.Process] = running.process.children()
        ports = [
            {one.laddr.port for one in each.net_connections("tcp") if one.status == psutil.CONN_LISTEN}
            for each in found
        ]
        if sum(running.port in each for each in ports) == workers:
            return found
        time.sleep(0.05)
    raise SystemExit(f"{SERVER.title}: not all of {workers} worker processes listen after {DEADLINE_SECONDS} s")


def ratio(bursts: Mapping[str, list[Burst]], title: str, to: str) -> float:
    """Of the two bursts of a round, which a machine's moods hit alike."""
    return median(
        one.requests_per_second / other.requests_per_second
        for one, other in zip(bursts[title], bursts[to], strict=True)
    )


def section(found: Mapping[str, Any]) -> str:
    bursts = {title: [Burst(**one) for one in each] for title, each in found["bursts"].items()}
    reached = ratio(bursts, TWO, ONE)
    lines = [
        HEADING,
        "",
        f"{found['machine']}; {found['made']}. Written by `python -m benchmarks.scaling`: one picture as JSON on each "
        f"of {CLIENTS} connections for every worker, {ROUNDS} times in turn. The requests lie in the sockets before "
        "the workers may go on, and the clients sleep until all is answered, so that they take nothing from the "
        f"service. Wanted are {LEAST_RATIO:g} times one worker's requests/s: "
        + ("reached." if reached >= LEAST_RATIO else "**missed**.")
        + " Two services side by side, which share nothing, show what this machine has left for the second of two busy "
        f"processes: two workers do {number(ratio(bursts, TWO, APART))} times what these do.",
        "",
        "| | requests/s | CPU µs a request | requests/s ÷ one worker's |",
        "|---|--:|--:|--:|",
    ]
    for title, each in bursts.items():
        rate = median(one.requests_per_second for one in each)
        # A single burst is a few ticks of the clock that counts it.
        cpu = fmean(one.cpu_us for one in each)
        lines.append(f"| {title} | {number(rate)} | {number(cpu)} | {number(ratio(bursts, title, ONE))} |")
    return "\n".join(lines)


SECTION = Section(HEADING, Path("benchmarks/scaling.json"), section)

if __name__ == "__main__":
    main()
