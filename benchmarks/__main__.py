"""One 28 x 28 picture as JSON at 16 connections, each server in turn, several rounds; medians and their ratios."""

import argparse
import json
import platform
import statistics
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.load import drive
from benchmarks.processes import running
from service.host import usable_cores

SAMPLE = Path("models/clothing/1/assets.extra/sample.png")
YARDSTICK = "gunicorn_hello"
SERVERS = (YARDSTICK, "fitting_room")
CONNECTIONS = 16


@dataclass(frozen=True)
class Figures:
    requests_per_second: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    start_seconds: float
    pss_mb: float


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each server is measured (default: 3)")
    parser.add_argument("--seconds", type=int, default=5, help="load per measurement, in seconds (default: 5)")
    parser.add_argument("--json", type=Path, help="write every round's figures to this file as well")
    options = parser.parse_args()

    pixels = np.asarray(Image.open(SAMPLE), np.float32)
    body = json.dumps({"instances": [pixels.tolist()]}).encode()
    print(
        f"{platform.machine()}, {usable_cores()} cores, Python {platform.python_version()}; {len(body)} bytes of JSON, "
    )
    print(f"{CONNECTIONS} connections, {options.rounds} rounds of {options.seconds} s, medians; wrk takes its share.\n")
    rounds: dict[str, list[Figures]] = {name: [] for name in SERVERS}
    for _ in range(options.rounds):
        for name in SERVERS:
            rounds[name].append(measure(name, body, options.seconds))
    print(table(rounds))
    if options.json:
        options.json.write_text(
            json.dumps({name: [vars(one) for one in many] for name, many in rounds.items()}, indent=2)
        )


def measure(name: str, body: bytes, seconds: int) -> Figures:
    server = import_module(f"benchmarks.servers.{name}")
    with running(server.COMMAND, server.PATH, body) as process:
        url = f"http://127.0.0.1:{process.port}{server.PATH}"
        drive(url, body, CONNECTIONS, seconds=1)
        before = process.cpu_seconds()
        load = drive(url, body, CONNECTIONS, seconds)
        cpu = process.cpu_seconds() - before
        return Figures(
            requests_per_second=load.requests / load.seconds,
            cpu_us=cpu / load.requests * 1e6,
            p50_ms=load.p50 / 1e3,
            p99_ms=load.p99 / 1e3,
            start_seconds=process.start_seconds,
            pss_mb=process.pss_bytes() / 1e6,
        )


def table(rounds: dict[str, list[Figures]]) -> str:
    """Markdown; the last column compares CPU per request with the yardstick's."""
    lines = [
        "| server | requests/s | CPU µs a request | p50 ms | p99 ms | start s | PSS MB | CPU / yardstick |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]

    def median(name: str, figure: str) -> float:
        return float(statistics.median(getattr(one, figure) for one in rounds[name]))

    for name in rounds:
        cells = [
            f"{median(name, 'requests_per_second'):,.0f}",
            f"{median(name, 'cpu_us'):,.0f}",
            f"{median(name, 'p50_ms'):.2f}",
            f"{median(name, 'p99_ms'):.2f}",
            f"{median(name, 'start_seconds'):.2f}",
            f"{median(name, 'pss_mb'):.0f}",
            f"{median(name, 'cpu_us') / median(YARDSTICK, 'cpu_us'):.2f}",
        ]
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
