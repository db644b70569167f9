"""How long Prometheus waits for a scrape of a hundred models, each asked since the last one, and with nobody asking.

Writes its section of docs/performance.md; takes half a minute.
"""

import argparse
import http.client
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import machine
from benchmarks.bodies import Body
from benchmarks.hundred_models import MODELS
from benchmarks.processes import Running, serving
from benchmarks.report import number
from benchmarks.sections import Section
from benchmarks.servers.fitting_room_100_models import SERVER

HEADING = "## A scrape of a hundred models"
WORKERS = (1, 4)
ROUNDS = 30
LIMIT_MS = 20
# Of drift nothing is told before a window has so many rows.
FIRST_ROWS = 40
ROW = Body(b'{"instances": [1.0]}', {"Content-Type": "application/json"})
# As Prometheus asks.
HEADERS = {"Accept": "text/plain;version=0.0.4", "Accept-Encoding": "gzip"}


@dataclass(frozen=True)
class Cost:
    """Milliseconds from the request to the answer's last byte, of each round. `first_ms`: where the worker process
    had never been scraped."""

    workers: int
    lines: int
    packed_bytes: int
    first_ms: float
    asked_ms: list[float]
    idle_ms: list[float]


class Prometheus:
    """Keeps its connection, and so stays with one worker process."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def scrape(self, headers: Mapping[str, str] = HEADERS) -> tuple[float, bytes]:
        began = time.perf_counter()
        self._connection.request("GET", "/metrics", headers=dict(headers))
        body = self._connection.getresponse().read()
        return (time.perf_counter() - began) * 1e3, body


def main() -> None:
    argparse.ArgumentParser(prog="python -m benchmarks.scrape", description=__doc__).parse_args()
    cores = machine.cores()
    with tempfile.TemporaryDirectory(prefix="scrape-") as name:
        costs = [cost(workers, set(cores), Path(name)) for workers in WORKERS]
    found = {**machine.provenance(), "costs": list(map(asdict, costs))}
    print(section(found))
    SECTION.keep(found)


def cost(workers: int, cores: set[int], folder: Path) -> Cost:
    with serving(SERVER, workers, cores, path(0), ROW, folder) as running:
        ask_all(running, FIRST_ROWS)
        prometheus = Prometheus(running.port)
        first_ms, packed = prometheus.scrape()
        _, text = prometheus.scrape({})
        idle = [prometheus.scrape()[0] for _ in range(ROUNDS)]
        asked = []
        for _ in range(ROUNDS):
            ask_all(running)
            asked.append(prometheus.scrape()[0])
        return Cost(workers, text.count(b"\n"), len(packed), first_ms, asked, idle)


def ask_all(running: Running, times: int = 1) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    for model in range(MODELS):
        for _ in range(times):
            connection.request("POST", path(model), ROW.content, ROW.headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise SystemExit(f"{path(model)} is answered with {answer.status}")
    connection.close()


def path(model: int) -> str:
    return f"/v1/models/regression_{model:02}:predict"


def section(found: Mapping[str, Any]) -> str:
    costs = [Cost(**one) for one in found["costs"]]
    is_reached = all(median(times) < LIMIT_MS for one in costs for times in (one.asked_ms, one.idle_ms))
    lines = [
        HEADING,
        "",
        f"{found['machine']}; {found['made']}. Written by `python -m benchmarks.scrape`: {MODELS} small models, each "
        f"asked and watched for drift, scraped as Prometheus does, {ROUNDS} times over a connection that is kept: with "
        f"every model asked since the last time, and with none. {costs[0].lines:,} lines, "
        f"{number(costs[0].packed_bytes / 1000)} KB packed. Wanted are medians under {LIMIT_MS} ms: "
        + ("reached." if is_reached else "**missed**."),
        "",
        "| worker processes | all asked: median ms | largest | none asked: median ms | largest | the first scrape |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for one in costs:
        times = [median(one.asked_ms), max(one.asked_ms), median(one.idle_ms), max(one.idle_ms), one.first_ms]
        lines.append(f"| {one.workers} | {' | '.join(map(number, times))} |")
    return "\n".join(lines)


SECTION = Section(HEADING, Path("benchmarks/scrape.json"), section)

if __name__ == "__main__":
    main()
