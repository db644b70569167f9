"""Full load for long: does anything grow? Code 1 where memory, file descriptors or threads did."""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import bodies, machine
from benchmarks.bodies import Body
from benchmarks.load import drive
from benchmarks.odd_requests import OddRequests
from benchmarks.processes import Running, held_to, prepare, serving
from benchmarks.report import number
from benchmarks.sections import Section
from benchmarks.servers import fitting_room

HEADING = "## Full load for long"
WHOLE_MINUTES = 10
LEAST_MINUTES = 2
# What a slice sends at full load, over how many connections and for how many seconds: every road that a prediction can
# take. More connections than threads let all threads begin in the first slice.
MIX = (("json", 1, 16, 16), ("png", 1, 16, 2), ("jpeg", 1, 64, 4), ("json", 240, 16, 4))
ODD_SECONDS = 4
# Until then caches and arenas fill: what grows later grows for ever.
SETTLED_SLICES = 2
MOST_GROWTH = 1.05
SETTLE_SECONDS = 1


@dataclass(frozen=True)
class Slice:
    """Of half a minute; `cpu_us` of a request with one picture as JSON."""

    requests: int
    cpu_us: float
    p99_ms: float
    pss_mb: float
    fds: int
    threads: int


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument(
        "--minutes",
        type=int,
        default=WHOLE_MINUTES,
        help=f"how long (default: %(default)s; from {WHOLE_MINUTES} on the result is written into docs/performance.md)",
    )
    minutes = max(LEAST_MINUTES, parser.parse_args().minutes)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    cores = machine.cores()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        wanted = {f"{fitting_room.SERVER.routes[sends].encoding}-{pictures}" for sends, pictures, *_ in MIX}
        wanted.add("v2_binary-1")
        made = bodies.make(wanted, Path(folder))
        route = fitting_room.SERVER.routes["json"]
        started = serving(fitting_room.SERVER, 1, {cores[0]}, route.path, made[f"{route.encoding}-1"], Path(folder))
        with held_to({cores[1]}), started as running:
            models = prepare(fitting_room.SERVER, Path(folder))
            odd = OddRequests(running.port, models, made["png-1"], made["v2_binary-1"])
            slices = []
            for index in range(2 * minutes):
                slices.append(_slice(running, made, odd, cores[1]))
                print(f"{(index + 1) / 2:4.1f} min  {slices[-1]}", flush=True)
    results = {
        **machine.provenance(with_wrk=True),
        "minutes": minutes,
        "slices": [asdict(one) for one in slices],
    }
    print(f"\n{section(results)}")
    if minutes >= WHOLE_MINUTES:
        SECTION.keep(results)
    sys.exit(1 if grown(slices) else 0)


def _slice(running: Running, made: dict[str, Body], odd: OddRequests, cpu: int) -> Slice:
    total, figures = 0, None
    for sends, pictures, connections, seconds in MIX:
        route = fitting_room.SERVER.routes[sends]
        before = running.cpu_seconds()
        load = drive(
            f"http://127.0.0.1:{running.port}{route.path}",
            made[f"{route.encoding}-{pictures}"],
            connections,
            seconds,
            {cpu},
        )
        total += load.requests
        figures = figures or ((running.cpu_seconds() - before) / load.requests * 1e6, load.p99 / 1000)
    assert figures is not None  # noqa: S101  # the mix is not empty
    total += odd.send(ODD_SECONDS)
    # The load's connections are still being closed.
    time.sleep(SETTLE_SECONDS)
    return Slice(
        requests=total,
        cpu_us=figures[0],
        p99_ms=figures[1],
        pss_mb=running.pss_bytes() / 2**20,
        fds=sum(process.num_fds() for process in running.tree()),
        threads=sum(process.num_threads() for process in running.tree()),
    )


def grown(slices: list[Slice]) -> list[str]:
    """What did, from the first half to the second: memory by their medians, for single readings differ by what lies
    freed at the moment; the others by their maxima, for some begin only when two ask at once."""
    first, second = halves(slices)
    before, after = (median(one.pss_mb for one in part) for part in (first, second))
    checks = {
        "memory": after > before * MOST_GROWTH,
        "file descriptors": max(one.fds for one in second) > max(one.fds for one in first),
        "threads": max(one.threads for one in second) > max(one.threads for one in first),
    }
    return [what for what, grew in checks.items() if grew]


def halves(slices: list[Slice]) -> tuple[list[Slice], list[Slice]]:
    settled = slices[SETTLED_SLICES:]
    return settled[: len(settled) // 2], settled[len(settled) // 2 :]


def section(results: Mapping[str, Any]) -> str:
    slices = [Slice(**one) for one in results["slices"]]
    first, second = halves(slices)
    columns = (
        ("after the first minute", first[:1]),
        ("median of the first half of the rest", first),
        ("median of the second half", second),
        ("at the end", second[-1:]),
    )
    rows = [
        ("CPU µs a request of one picture", "cpu_us"),
        ("p99 ms", "p99_ms"),
        ("PSS MB", "pss_mb"),
        ("file descriptors", "fds"),
        ("threads", "threads"),
    ]
    mix = ", ".join(
        f"{seconds} s of {pictures} picture{'s' * (pictures > 1)} as {sends} over {connections} connections"
        for sends, pictures, connections, seconds in MIX
    )
    found = grown(slices)
    return "\n".join(
        [
            HEADING,
            "",
            f"{results['machine']}; {results['made']}. {results['minutes']} minutes at full load, one worker; "
            f"each half minute {mix}, and {ODD_SECONDS} s of everything else one after the other: forms, "
            "classification, binary tensors, compressed bodies, metadata, metrics, requests that are wrong in several "
            "ways, clients that leave in the middle, and a version that comes and goes. "
            f"{sum(one.requests for one in slices):,} requests, each answered as it should be. "
            + (f"**Grown: {', '.join(found)}.**" if found else "Nothing grew.")
            + " Other work may have run beside it: CPU and latency compare the halves, and nothing else.",
            "",
            f"| | {' | '.join(title for title, _ in columns)} |",
            f"|---|{'--:|' * len(columns)}",
            *(
                f"| {title} | {' | '.join(number(median(getattr(one, name) for one in part)) for _, part in columns)} |"
                for title, name in rows
            ),
        ]
    )


SECTION = Section(HEADING, Path("benchmarks/soak.json"), section)

if __name__ == "__main__":
    main()
