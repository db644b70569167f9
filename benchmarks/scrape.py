"""How long Prometheus waits for a scrape of a hundred models: all used since the last one, or none. Half a minute."""

import http.client
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import report
from benchmarks.bodies import ROW
from benchmarks.process import Running, cores, serving
from benchmarks.report import number
from benchmarks.servers import fitting_room

WORKERS = (1, 4)
ROUNDS = 30
MAX_MS = 20
# Of drift nothing is shown before a window has so many rows.
FIRST_ROWS = 40
# As Prometheus sends them.
HEADERS = {"Accept": "text/plain;version=0.0.4", "Accept-Encoding": "gzip"}
PATHS = [f"/v1/models/regression_{number:02}:predict" for number in range(fitting_room.MORE_MODELS)]


def main() -> None:
    options = report.parser("benchmarks.scrape", __doc__).parse_args()
    with tempfile.TemporaryDirectory(prefix="scrape-") as folder:
        found = {"workers": {str(workers): _measure(workers, Path(folder)) for workers in WORKERS}}
    report.finish("scrape", found, write=not options.dry_run)


def _measure(workers: int, folder: Path) -> dict[str, float]:
    """Milliseconds from the request to the last byte of the response."""
    server = fitting_room.SERVERS["fitting_room_100_models"]
    with serving(server, PATHS[0], ROW, cores(), folder, workers) as running:
        _predict(running, FIRST_ROWS)
        # A connection that is kept, and so one worker process.
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
        first, packed = _scrape(connection)
        _, text = _scrape(connection, {})
        idle = [_scrape(connection)[0] for _ in range(ROUNDS)]
        used = []
        for _ in range(ROUNDS):
            _predict(running)
            used.append(_scrape(connection)[0])
    return {
        "lines": text.count(b"\n"),
        "packed_kb": len(packed) / 1000,
        "first_ms": first,
        "used_ms": median(used),
        "used_max_ms": max(used),
        "idle_ms": median(idle),
        "idle_max_ms": max(idle),
    }


def _scrape(connection: http.client.HTTPConnection, headers: Mapping[str, str] = HEADERS) -> tuple[float, bytes]:
    began = time.perf_counter()
    connection.request("GET", "/metrics", headers=dict(headers))
    content = connection.getresponse().read()
    return (time.perf_counter() - began) * 1e3, content


def _predict(running: Running, times: int = 1) -> None:
    """So many times with each model."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    for path in PATHS:
        for _ in range(times):
            connection.request("POST", path, ROW.content, dict(ROW.headers))
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                raise SystemExit(f"{path}: {response.status}")
    connection.close()


def section(found: Mapping[str, Any]) -> list[str]:
    columns = {
        "used_ms": "all used: median ms",
        "used_max_ms": "largest",
        "idle_ms": "none used: median ms",
        "idle_max_ms": "largest",
        "first_ms": "first scrape",
        "lines": "lines",
        "packed_kb": "KB packed",
    }
    by_workers = found["workers"]
    return [
        report.table(
            ["worker processes", *columns.values()],
            [[workers, *(number(one[column]) for column in columns)] for workers, one in by_workers.items()],
        ),
        report.targets(
            report.target(f"median ms, {what}, worker processes: {workers}", one[name], MAX_MS)
            for workers, one in by_workers.items()
            for what, name in (("all used", "used_ms"), ("none used", "idle_ms"))
        ),
    ]


if __name__ == "__main__":
    main()
