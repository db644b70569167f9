"""Versions come and go under a steady load; every answer is checked. Code 1 where one failed or was misrouted."""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.bodies import Body
from benchmarks.processes import held_to, serving
from benchmarks.reload import checks, versions
from benchmarks.reload.changes import LABELLED, NEWEST, POLL_SECONDS, SHARE, Changes, route_of
from benchmarks.reload.section import SECTION
from benchmarks.reload.ways import Ways
from benchmarks.sections import DOCUMENT
from benchmarks.servers import fitting_room

WHOLE_SECONDS, WHOLE_STEPS = 60, 5
# A step that is shorter has no time left to settle in.
STEP_SECONDS = 5
WORKERS, CONNECTIONS = 2, 16
# Requests a second: a small part of what two workers can do, so that waiting has other causes than load.
RATE = 400
# Of the model whose requests wait while one version takes the place of another, by clients of its own.
WAITING_RATE, WAITING_CONNECTIONS = 40, 4
SHOWN_FAULTS = 20


class Clients:
    """The load process, by its commands."""

    def __init__(self, port: int, rate: int, connections: int, file: Path) -> None:
        self._file = file
        command = ["-m", "benchmarks.reload.load", str(port), str(rate), str(connections), str(file)]
        self._process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, route: str) -> None:
        self._command(f"ask {route}")

    def drop(self, route: str) -> None:
        self._command(f"drop {route}")

    def end(self) -> list[checks.Answer]:
        if self._process.poll() is None:
            self._process.communicate("end\n", timeout=60)
        if self._process.returncode:
            raise RuntimeError(f"the load left with {self._process.returncode}")
        return [checks.Answer(**json.loads(line)) for line in self._file.read_text().splitlines()]

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _command(self, line: str) -> None:
        assert self._process.stdin is not None  # noqa: S101  # for the types
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != "done\n":
            raise RuntimeError(f"the load has ended before `{line}`")


def main() -> None:
    seconds = _parser().parse_args().seconds
    # So that service and load are stopped then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    results, faults = measure(seconds, min(WHOLE_STEPS, max(1, seconds // STEP_SECONDS)))
    print(SECTION.write(results))
    if seconds >= WHOLE_SECONDS:
        SECTION.keep(results)
        print(f"\nWritten to {SECTION.results} and {DOCUMENT}.")
    else:
        print(f"\nShorter than {WHOLE_SECONDS} s: {SECTION.results} and {DOCUMENT} are left as they are.")
    if faults:
        shown = [f"{count} x {fault}" for fault, count in Counter(faults).most_common(SHOWN_FAULTS)]
        sys.exit("\n".join([f"{len(faults)} answers failed or were misrouted:", *shown]))


def measure(seconds: int, steps: int) -> tuple[dict[str, Any], list[str]]:
    """Results, and what was wrong with each answer that was."""
    with tempfile.TemporaryDirectory(prefix="reload-") as name:
        folder = Path(name)
        models, made = folder / "models", folder / "made"
        for number in range(1, steps + 2):
            versions.make(number, made / str(number))
            versions.publish_broken(made / str(number), made / f"broken-{number}", versions.TWIN)
        (revision := folder / "revision-1").mkdir()
        versions.link(revision, models)
        for model in (LABELLED, NEWEST):
            (models / model).mkdir(parents=True)
            versions.publish(made / "1", models / model / "1")
        (ways := Ways(models, made)).begin(versions.labels(LABELLED, stable=1, canary=1, share=SHARE))
        with _service(models, folder) as port:
            clients = Clients(port, RATE, CONNECTIONS, folder / "answers")
            waiting = Clients(port, WAITING_RATE, WAITING_CONNECTIONS, folder / "waiting")
            try:
                changes = Changes(port, ways, clients, waiting)
                changes.begin()
                # Connections, caches and processors warm up.
                time.sleep(1)
                phases = _phases(changes, seconds / steps, steps)
                answers, waited = clients.end(), waiting.end()
            finally:
                clients.kill()
                waiting.kill()
    figures = {
        state: asdict(checks.figures(answers, phases, changes.allowed, is_reloading))
        for state, is_reloading in (("without", False), ("with", True))
    }
    faults = [fault for answer in (*answers, *waited) if (fault := checks.fault(answer, changes.allowed))]
    about = {
        **machine.provenance(),
        "seconds": seconds,
        "steps": steps,
        "workers": WORKERS,
        "connections": CONNECTIONS,
        "requests_per_second": RATE,
        "changes": dict(changes.counts),
    }
    between = sum(answer.status == 503 for answer in waited)
    checked = len(answers) + len(waited)
    return {**about, "phases": figures, "checked": checked, "between": between, "faults": len(faults)}, faults


def _phases(changes: Changes, seconds: float, steps: int) -> list[checks.Phase]:
    """With reloads and without, in turn, as long each time."""
    phases = []
    for step in range(steps):
        began = time.monotonic()
        changes.step(step + 2)
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        turned = time.monotonic()
        time.sleep(turned - began)
        ended = time.monotonic()
        phases += [checks.Phase(True, began, turned), checks.Phase(False, turned, ended)]
        print(f"{step + 1} of {steps}: version {step + 2}", file=sys.stderr, flush=True)
    return phases


@contextmanager
def _service(models: Path, folder: Path) -> Iterator[int]:
    """Its port. Two cores, whatever else the machine has; one of them is the load's, too."""
    server, load = machine.cores()
    flags = ("--models", str(models), "--engine", "litert", "--poll-seconds", str(POLL_SECONDS))
    ours = replace(fitting_room.SERVER, command=(*fitting_room.SERVER.command, *flags))
    body = Body(b'{"instances": [1.0]}', {"Content-Type": "application/json"})
    path = f"{route_of(NEWEST)}:predict"
    with held_to({load}), serving(ours, WORKERS, {server, load}, path, body, folder) as running:
        yield running.port


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reload",
        description=textwrap.fill(
            f"{__doc__} Of {WHOLE_SECONDS} s and more, it also writes {SECTION.results} and its part of {DOCUMENT}."
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=WHOLE_SECONDS,
        help=f"with reloads, and as long without, in turn (default: {WHOLE_SECONDS}). "
        f"{WHOLE_STEPS} versions are added, in a shorter run one for each {STEP_SECONDS} s",
    )
    return parser


def _seconds(text: str) -> int:
    if not text.isdigit() or int(text) < STEP_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, at least {STEP_SECONDS}")
    return int(text)


if __name__ == "__main__":
    main()
