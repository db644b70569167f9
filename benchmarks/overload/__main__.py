"""Ten times as many clients as a worker takes, none of them patient. Code 1 where a target is missed."""

import argparse
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks import bodies, machine
from benchmarks.bodies import Body
from benchmarks.overload.answers import Answers, Figures, figures, recovery_seconds, slices
from benchmarks.overload.section import NORMAL, SECTION, TIMES, is_reached
from benchmarks.processes import Running, held_to, serving
from benchmarks.sections import DOCUMENT
from benchmarks.servers import fitting_room

WHOLE_SECONDS = 60
# Of each step of the search for the capacity, and of what is measured at capacity and after the overload.
STEP_SECONDS, SETTLE_SECONDS = 4, 1
AFTER_SECONDS = 4
MEMORY_SECONDS = 0.5


@dataclass(frozen=True)
class Kind:
    """`most`: clients; ten times as many must be fewer than SERVING_MAX_CONNECTIONS."""

    title: str
    flags: tuple[str, ...]
    path: str
    sends: str
    least: int
    most: int


KINDS = {
    "quick": Kind(
        "`clothing/1`, one picture as JSON, on the event loop",
        ("--models", "{folder}"),
        fitting_room.CLOTHING,
        "v1_json",
        125,
        1000,
    ),
    "slow": Kind(
        "`photos/1`, a 400x533 JPEG, by threads",
        ("--models", "models", "--model-name", "photos"),
        "/v1/models/photos:predict",
        "jpeg",
        7,
        1000,
    ),
}


class Clients:
    """The process of the clients, by its commands."""

    def __init__(self, port: int, path: str, body: Path, file: Path) -> None:
        self._file = file
        command = [sys.executable, "-m", "benchmarks.overload.clients", str(port), path, str(body), str(file)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def become(self, count: int) -> int:
        """How many answers so far were no 200."""
        assert self._process.stdin is not None  # noqa: S101  # for the types
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.write(f"clients {count}\n")
        self._process.stdin.flush()
        done, _, others = self._process.stdout.readline().partition(" ")
        if done != "done":
            raise RuntimeError(f"the clients' process has ended before there were {count}")
        return int(others)

    def cpu_seconds(self) -> float:
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def end(self) -> Answers:
        self._process.communicate("end\n", timeout=60)
        if self._process.returncode:
            raise RuntimeError(f"the clients' process left with {self._process.returncode}")
        return Answers.read(self._file)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@dataclass(frozen=True)
class Phase:
    """`load_share`: of its core, what the clients took; where that is all of it, they were the bottleneck.
    `cpu_seconds`: the service's."""

    clients: int
    began: float
    ended: float
    load_share: float
    cpu_seconds: float
    pss_mb: list[float]


def main() -> None:
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    kinds = {name: KINDS[name] for name in options.kind or KINDS}
    found = {name: _measure(kind, options.seconds, options.flag) for name, kind in kinds.items()}
    results = {
        **machine.provenance(),
        "seconds": options.seconds,
        "kinds": found,
    }
    print(SECTION.write(results))
    if options.seconds >= WHOLE_SECONDS and not options.kind and not options.flag:
        SECTION.keep(results)
        print(f"\nWritten to {SECTION.results} and {DOCUMENT}.")
    else:
        print(f"\nA part of the whole: {SECTION.results} and {DOCUMENT} are left as they are.")
    sys.exit(0 if all(is_reached(kind) for kind in found.values()) else 1)


def _measure(kind: Kind, seconds: int, flags: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="overload-") as name:
        folder = Path(name)
        sent = f"{kind.sends}-1"
        body = bodies.make({sent}, folder)[sent]
        with _service(kind, flags, body, folder) as running:
            clients = Clients(running.port, kind.path, folder / sent, folder / "answers")
            try:
                phases = _phases(clients, running, kind, seconds)
                answers = clients.end()
            finally:
                clients.kill()
    return _figures(kind, phases, answers)


def _phases(clients: Clients, running: Running, kind: Kind, seconds: int) -> list[Phase]:
    """Ever more clients until some are refused; as many as were not, ten times as many, and as many again."""
    steps, count, refused = [], kind.least, 0
    while count <= kind.most and not refused:
        _say(f"  {count} clients")
        clients.become(count)
        time.sleep(SETTLE_SECONDS)
        steps.append(_phase(clients, running, count, STEP_SECONDS))
        refused = clients.become(count)
        count *= 2
    if refused:
        steps.pop()
    if not steps:
        raise SystemExit(f"{kind.title}: of {kind.least} clients some are refused already")
    full = steps[-1].clients
    clients.become(full)
    time.sleep(SETTLE_SECONDS)
    _say(f"  {full} clients: capacity")
    before = _phase(clients, running, full, seconds / 3)
    _say(f"  {TIMES * full} clients for {seconds} s")
    clients.become(TIMES * full)
    over = _phase(clients, running, TIMES * full, seconds)
    clients.become(full)
    after = _phase(clients, running, full, AFTER_SECONDS)
    return [*steps, before, over, after]


def _phase(clients: Clients, running: Running, count: int, seconds: float) -> Phase:
    began, load_cpu, cpu, pss = time.monotonic(), clients.cpu_seconds(), running.cpu_seconds(), []
    while (left := began + seconds - time.monotonic()) > 0:
        pss.append(running.pss_bytes() / 2**20)
        time.sleep(min(left, MEMORY_SECONDS))
    ended = time.monotonic()
    return Phase(
        count, began, ended, (clients.cpu_seconds() - load_cpu) / (ended - began), running.cpu_seconds() - cpu, pss
    )


def _figures(kind: Kind, phases: list[Phase], answers: Answers) -> dict[str, Any]:
    *steps, before, over, after = phases
    half = len(over.pss_mb) // 2
    worst = max(p99 for _, p99, _ in slices(answers, before.began, before.ended))
    return {
        "title": kind.title,
        "steps": [asdict(_of(answers, phase)) for phase in steps],
        "capacity": asdict(_of(answers, before)),
        "overload": asdict(_of(answers, over)),
        "pss_mb": {
            "capacity": median(before.pss_mb),
            "first half": median(over.pss_mb[:half]),
            "second half": median(over.pss_mb[half:]),
            "after": after.pss_mb[-1],
        },
        "worst_slice_ms": worst * 1e3,
        "recovery_seconds": recovery_seconds(answers, NORMAL * worst, after.began, after.ended),
        "load_share": max(before.load_share, over.load_share),
    }


def _of(answers: Answers, phase: Phase) -> Figures:
    return figures(answers, phase.clients, phase.began, phase.ended, phase.cpu_seconds)


@contextmanager
def _service(kind: Kind, flags: list[str], body: Body, folder: Path) -> Iterator[Running]:
    """Held to one core, this process and the clients' to the other."""
    core, load = machine.cores()
    server = replace(fitting_room.SERVER, command=(*fitting_room.COMMAND, *kind.flags, *flags))
    started = serving(server, 1, {core}, kind.path, body, folder)
    with held_to({load}), started as running:
        yield running


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overload",
        description=textwrap.fill(
            f"{__doc__} Of {WHOLE_SECONDS} s, of all kinds and without flags it also writes {SECTION.results} and its "
            f"part of {DOCUMENT}."
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--seconds", type=int, default=WHOLE_SECONDS, help="how long the overload lasts (default: %(default)s)"
    )
    parser.add_argument("--kind", action="append", choices=KINDS, help="only this one; may be given several times")
    parser.add_argument("--flag", action="append", default=[], help="of the service: --flag=--max-queue-ms=20")
    return parser


if __name__ == "__main__":
    main()
