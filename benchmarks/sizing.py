"""What each shipped version costs by itself: CPU of a request, memory of a worker process.

Writes the section Each model of docs/operations/sizing.md; takes about five minutes.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import machine, shipped_bodies
from benchmarks.bodies import Body
from benchmarks.load import drive
from benchmarks.processes import Running, serving
from benchmarks.report import number
from benchmarks.sections import Section
from benchmarks.servers import fitting_room

MODELS = Path("models")
HEADING = "## Each model"
CONNECTIONS = 16
ROUNDS = 3
SECONDS = 3
WARM_UP_SECONDS = 3
# A model whose batches take memory and do not pay: what they take where the user asks for them, and what they give.
BATCHED = "photos/1"
BATCHED_FORM = "picture"
BATCH_SIZES = (1, 4, 32)


@dataclass(frozen=True)
class Form:
    """CPU of a request, user and system: the median of the rounds."""

    body_bytes: int
    cpu_us: float


@dataclass(frozen=True)
class Cost:
    """Memory: PSS of all processes under load, of one worker and of two."""

    version: str
    forms: Mapping[str, Form]
    one_worker_mb: float
    two_workers_mb: float


@dataclass(frozen=True)
class BatchCost:
    """Of BATCHED, with one worker and this size in its policy."""

    max_batch_size: int
    cpu_us: float
    mb: float


def main() -> None:
    cores = machine.cores()
    shipped = {f"{path.parent.name}/{path.name}": path for path in sorted(MODELS.glob("*/[0-9]*"))}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizing", description=__doc__)
    parser.add_argument(
        "version",
        nargs="*",
        help="only this one; what was found of the others is kept",
        metavar="MODEL/VERSION",
    )
    asked = parser.parse_args().version or [*shipped]
    if unknown := [name for name in asked if name not in shipped]:
        parser.error(f"no such version: {', '.join(unknown)}; there are {', '.join(shipped)}")
    kept = json.loads(SECTION.results.read_text())
    costs = {cost["version"]: cost for cost in kept["costs"] if cost["version"] in shipped}
    for name in asked:
        with alone(shipped[name]) as version:
            costs[name] = asdict(version.cost(cores))
            print(costs[name], flush=True)
    batches = [] if BATCHED in asked else kept["batches"]
    for size in BATCH_SIZES if BATCHED in asked else ():
        with alone(shipped[BATCHED]) as version:
            batches.append(asdict(version.batch_cost(cores, size)))
            print(batches[-1], flush=True)
    SECTION.keep({**machine.provenance(), "costs": [costs[name] for name in sorted(costs)], "batches": batches})


@dataclass(frozen=True)
class Alone:
    """A version in a folder where no other is, and a request for it in each form that it takes."""

    model: str
    number: str
    folder: Path
    bodies: Mapping[str, Body]

    def cost(self, cores: tuple[int, int]) -> Cost:
        with self._served(1, {cores[0]}) as running:
            forms = {
                form: Form(len(body.content), self._cpu_us(running, form, cores[1]))
                for form, body in self.bodies.items()
            }
            one_worker = running.pss_bytes() / 1e6
        with self._served(2, set(cores)) as running:
            for form in self.bodies:
                self._load(running, form, cores[1], SECONDS)
            return Cost(f"{self.model}/{self.number}", forms, one_worker, running.pss_bytes() / 1e6)

    def batch_cost(self, cores: tuple[int, int], size: int) -> BatchCost:
        policies = self.folder / "models.toml"
        policies.write_text(f"[models.{self.model}]\nbatching = {{max_batch_size = {size}}}\n")
        with self._served(1, {cores[0]}, "--models-config", str(policies)) as running:
            cpu_us = self._cpu_us(running, BATCHED_FORM, cores[1])
            return BatchCost(size, cpu_us, running.pss_bytes() / 1e6)

    @contextmanager
    def _served(self, workers: int, cores: set[int], *flags: str) -> Iterator[Running]:
        command = (*fitting_room.COMMAND, "--models", f"{self.folder}/models", *fitting_room.PATIENCE, *flags)
        form, body = next(iter(self.bodies.items()))
        server = replace(fitting_room.SERVER, command=command)
        with serving(server, workers, cores, self._path(form), body, self.folder) as running:
            yield running

    def _path(self, form: str) -> str:
        return f"/v2/models/{self.model}/infer" if form == "v2 binary" else f"/v1/models/{self.model}:predict"

    def _load(self, running: Running, form: str, core: int, seconds: int) -> int:
        """How many requests were answered."""
        url = f"http://127.0.0.1:{running.port}{self._path(form)}"
        return drive(url, self.bodies[form], CONNECTIONS, seconds, {core}).requests

    def _cpu_us(self, running: Running, form: str, load_core: int) -> float:
        self._load(running, form, load_core, WARM_UP_SECONDS)
        rounds = []
        for _ in range(ROUNDS):
            before = running.cpu_seconds()
            answered = self._load(running, form, load_core, SECONDS)
            rounds.append((running.cpu_seconds() - before) / answered * 1e6)
        return median(rounds)


@contextmanager
def alone(path: Path) -> Iterator[Alone]:
    with tempfile.TemporaryDirectory(prefix="sizing-") as name:
        folder, model = Path(name), path.parent.name
        (folder / "models" / model).mkdir(parents=True)
        (folder / "models" / model / path.name).symlink_to(path.absolute())
        yield Alone(model, path.name, folder, shipped_bodies.make(path, folder))


def section(found: Mapping[str, Any]) -> str:
    lines = [
        HEADING,
        "",
        f"{found['machine']}; {found['made']}. Written by",
        "`python -m benchmarks.sizing`: each version alone in the service, one row a request, wrk with "
        f"{CONNECTIONS} connections on a",
        f"core of its own; CPU is the median of {ROUNDS} rounds of {SECONDS} s, memory is proportional (PSS), of all "
        "processes, under load.",
        "",
        "| version | sent as | body KB | CPU µs a request | requests/s to fill a core | MB, one worker | each more |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for one in found["costs"]:
        memory = [number(one["one_worker_mb"]), number(one["two_workers_mb"] - one["one_worker_mb"])]
        for form, figures in one["forms"].items():
            cells = [one["version"], form, number(figures["body_bytes"] / 1000)]
            cells += [number(figures["cpu_us"]), number(1e6 / figures["cpu_us"])]
            lines.append(f"| {' | '.join([*cells, *memory])} |")
            memory = ["", ""]
    lines += [
        "",
        f"Batches of `{BATCHED}` save no CPU, so the service forms none unless "
        "[`batching`](models.md#batch-sizes) sets a size. With one worker:",
        "",
        "| largest batch, rows | CPU µs a request | MB |",
        "|--:|--:|--:|",
    ]
    lines += [
        f"| {one['max_batch_size']} | {number(one['cpu_us'])} | {number(one['mb'])} |" for one in found["batches"]
    ]
    return "\n".join(lines)


SECTION = Section(HEADING, Path("benchmarks/sizing.json"), section, Path("docs/operations/sizing.md"))

if __name__ == "__main__":
    main()
