"""Speed, as ratios to yardsticks that are measured in the same run.

Starts each server, drives it with wrk, stops it. Within a scenario the servers take turns (A/B/A/B): what else the
machine does hits all alike.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks import report
from benchmarks.bodies import body
from benchmarks.load import Load, drive, find_wrk, parse
from benchmarks.process import Body, LeftOut, Running, command_line, cores, last_words, pinned_to, serving
from benchmarks.report import number
from benchmarks.scenarios import SCENARIOS, SERVERS, SLOW, Scenario
from benchmarks.servers import Server

ROUNDS, SECONDS, WARM_UP_SECONDS = 3, 3, 1
COLUMNS = {
    "requests_per_second": "requests/s",
    "pictures_per_second": "pictures/s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "cpu_us": "CPU µs a request",
    "start_seconds": "start s",
    "pss_mb": "PSS MB",
}
Figures = dict[str, float]
Cores = tuple[int, int]


def main() -> None:
    options = _parser().parse_args()
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    seconds = options.seconds or (1 if options.quick else SECONDS)
    find_wrk()
    chosen = {}
    for name, scenario in SCENARIOS.items():
        servers = [
            server
            for server in scenario.servers
            if server in (options.server or SERVERS) and not (options.quick and server in SLOW)
        ]
        if servers and name in (options.scenario or SCENARIOS):
            chosen[name] = replace(scenario, servers=tuple(servers))
    if not chosen:
        raise SystemExit("none of these servers takes part in these scenarios")
    both = cores()
    found: dict[str, Any] = {"rounds": rounds, "seconds": seconds, "scenarios": {}}
    # This command's own turns at the processor shall not be the server's loss.
    with pinned_to(both[1]), tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        for index, (name, scenario) in enumerate(chosen.items()):
            _say(f"{index + 1} of {len(chosen)}: {name}")
            found["scenarios"][name] = _measure(scenario, rounds, seconds, both, Path(folder))
    is_whole = not (options.quick or options.scenario or options.server or options.dry_run)
    report.finish("comparison", found, write=is_whole, wrk=True)


def _measure(scenario: Scenario, rounds: int, seconds: int, both: Cores, folder: Path) -> dict[str, dict[str, Any]]:
    """By server: medians of the rounds, or why it is left out."""
    measured: dict[str, list[Figures]] = {name: [] for name in scenario.servers}
    left_out: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        turns = {name: Turns(SERVERS[name], scenario, seconds, both, folder, stack) for name in scenario.servers}
        for index in range(rounds):
            for name in [name for name in scenario.servers if name not in left_out]:
                _say(f"  round {index + 1} of {rounds}: {name}")
                try:
                    measured[name].append(turns[name].take())
                except (LeftOut, RuntimeError, psutil.Error, subprocess.SubprocessError) as problem:
                    left_out[name] = {"left_out": str(problem)}
                    _say(f"  {name} is left out: {problem}")
    return {name: left_out.get(name) or _medians(figures) for name, figures in measured.items()}


@dataclass
class Turns:
    """One server in one scenario; from its first turn on it is up until `stack` ends, unless its start is measured."""

    server: Server
    scenario: Scenario
    seconds: int
    both: Cores
    folder: Path
    stack: ExitStack
    running: Running | None = None

    def take(self) -> Figures:
        if self.scenario.sends not in self.server.routes:
            raise LeftOut(f"takes no {self.scenario.sends}")
        route = self.server.routes[self.scenario.sends]
        if self.server.in_process:
            return self._in_process(route.encoding)
        sent = body(route.encoding, self.scenario.pictures)
        return self._start(route.path, sent) if self.scenario.start else self._load(route.path, sent)

    def _start(self, path: str, sent: Body) -> Figures:
        # Both cores, as when it is started for use. The memory is read once each worker has answered.
        with serving(self.server, path, sent, self.both, self.folder, self.scenario.workers) as running:
            drive(running, path, sent, self.scenario.connections, 1, self.both[1])
            return {"start_seconds": running.start_seconds, "pss_mb": running.pss_bytes() / 1e6}

    def _load(self, path: str, sent: Body) -> Figures:
        held, workers, connections = self.scenario.held, self.scenario.workers, self.scenario.connections
        cpus, load_cpus = self.both[:1] if held and workers == 1 else self.both, self.both[1:] if held else self.both
        if self.running is None:
            started = serving(self.server, path, sent, cpus, self.folder, workers)
            self.running = self.stack.enter_context(started)
        drive(self.running, path, sent, connections, WARM_UP_SECONDS, *load_cpus)
        # A slow server still works on what wrk has given up: its response to one more comes after all of that.
        self.running.post(path, sent)
        busy = _busy_seconds()
        load = drive(self.running, path, sent, connections, self.seconds, *load_cpus)
        busy = _busy_seconds() - busy
        free_cores = len(cpus) - (load.wrk_seconds / load.seconds if self.both[1] in cpus else 0.0)
        return self._figures(load) | {
            "body_bytes": len(sent.content),
            "cpu_us_per_kb": load.cpu_us / (len(sent.content) / 1000),
            # Of the cores that the server could use, less what wrk took of them.
            "requests_per_free_core": load.requests / load.seconds / free_cores,
            # What ran beside server and load, of a core: figures of a run with much of it mean little.
            "others_share": max(0.0, (busy - load.cpu_seconds - load.wrk_seconds) / load.seconds),
        }

    def _in_process(self, encoding: str) -> Figures:
        values = {"encoding": encoding, "pictures": self.scenario.pictures, "seconds": self.seconds}
        command, variables = command_line(self.server, **values)
        with pinned_to(self.both[0]):
            done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=self.seconds + 60)
        if done.returncode:
            raise LeftOut(last_words(done.stderr))
        return self._figures(parse(done.stdout, self.server.title))

    def _figures(self, load: Load) -> Figures:
        rate = load.requests / load.seconds
        return {
            "requests_per_second": rate,
            **({"pictures_per_second": rate * self.scenario.pictures} if self.scenario.pictures > 1 else {}),
            "p50_ms": load.p50_ms,
            "p99_ms": load.p99_ms,
            "cpu_us": load.cpu_us,
        }


def _medians(rounds: list[Figures]) -> Figures:
    found = {name: median(one[name] for one in rounds) for name in rounds[0]}
    if "cpu_us" in found:
        cpu = [one["cpu_us"] for one in rounds]
        found |= {"cpu_us_min": min(cpu), "cpu_us_max": max(cpu)}
    return found


def _busy_seconds() -> float:
    """Of all cores together, since the machine's start; also what the host took away from it."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)


def section(found: Mapping[str, Any]) -> list[str]:
    measured = found["scenarios"]
    shares = [one["others_share"] for servers in measured.values() for one in servers.values() if "others_share" in one]
    verdicts = [row[-1] for name in measured for row in _targets(measured, name)]
    reached = sum(verdict.startswith("reached") for verdict in verdicts)
    missing = verdicts.count("not measured")
    return [
        f"Medians of {_count(found['rounds'], 'interleaved round')} of {found['seconds']} s each."
        + (f" Beside server and load, others took {median(shares):.0%} of a core." if shares else ""),
        f"{reached} of {len(verdicts)} targets are reached"
        + (f"; {missing} could not be measured." if missing else "."),
        *(part for name in measured for part in _scenario(measured, name)),
    ]


def _scenario(measured: Mapping[str, Any], name: str) -> Iterator[str]:
    scenario = SCENARIOS[name]
    left_out = {server: one["left_out"] for server, one in measured[name].items() if "left_out" in one}
    figures = {server: one for server, one in measured[name].items() if server not in left_out}
    yield f"## {scenario.title}"
    yield _caption(scenario, figures)
    if scenario.start:
        columns = ["start_seconds", "pss_mb"]
    else:
        columns = ["requests_per_second", "pictures_per_second", "p50_ms", "p99_ms", "cpu_us"]
        if scenario.pictures == 1:
            columns.remove("pictures_per_second")
    titles = [COLUMNS[column] for column in columns]
    if figures:
        ranges = [] if scenario.start else ["CPU, range"]
        yield report.table(
            ["server", *titles, *ranges],
            [
                [_title(server), *(number(one[column]) for column in columns)]
                + [f"{number(one['cpu_us_min'])} to {number(one['cpu_us_max'])}" for _ in ranges]
                for server, one in figures.items()
            ],
        )
    ratios = [
        [f"{SERVERS[ours].title} ÷ {_title(theirs)}", *(_ratio(figures, ours, theirs, column) for column in columns)]
        for ours in figures
        for theirs in figures
        if SERVERS[theirs].yardstick and not SERVERS[ours].yardstick
    ]
    if ratios:
        yield report.table(["ratio", *titles], ratios)
    if targets := _targets(measured, name):
        yield report.targets(targets)
    for server, why in left_out.items():
        yield f"Left out: {SERVERS[server].title}: {why}."


def _caption(scenario: Scenario, figures: Mapping[str, Figures]) -> str:
    if scenario.start:
        return "Each server alone, on both cores."
    size = next((one["body_bytes"] for one in figures.values() if "body_bytes" in one), 0)
    placed = "Server and wrk share both cores, as the scheduler has it."
    if scenario.held and scenario.workers == 1:
        placed = "The server has one core, wrk the other."
    elif scenario.held:
        placed = "The server has both cores, wrk one of them: it takes its share from the second worker."
    return f"{size / 1000:.1f} KB a request, {_count(scenario.connections, 'kept-alive connection')}. {placed}"


def _ratio(figures: Mapping[str, Figures], ours: str, theirs: str, column: str) -> str:
    # In process there is no queue of sixteen to wait in.
    if SERVERS[theirs].in_process and column in ("p50_ms", "p99_ms"):
        return "–"
    return number(figures[ours][column] / figures[theirs][column])


def _targets(measured: Mapping[str, Any], name: str) -> list[list[str]]:
    """A row for each target whose servers this run was to measure."""
    rows = []
    for target in SCENARIOS[name].targets:
        of = f"{name}/{target.server or SCENARIOS[name].servers[0]}/{target.figure}"
        other = target.to or target.less
        if other and "/" not in other:
            other = f"{name}/{other}/{target.figure}"
        paths = [path.split("/") for path in (of, other) if path]
        if all(server in measured.get(scenario, {}) for scenario, server, _ in paths):
            figures = [measured[scenario][server].get(figure) for scenario, server, figure in paths]
            value = None if None in figures else target.value(*figures)
            rows.append(report.target(target.text, value, target.limit, at_least=target.at_least, aim=target.aim))
    return rows


def _title(server: str) -> str:
    yardstick = SERVERS[server].yardstick
    return f"({yardstick}) {SERVERS[server].title}" if len(yardstick) == 1 else SERVERS[server].title


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = report.parser("benchmarks", f"{__doc__}\nA whole run takes twenty minutes.")
    titles = {name: one.title for name, one in SCENARIOS.items()} | {name: one.title for name, one in SERVERS.items()}
    parser.epilog = "\n".join(["scenarios and servers:", *(f"  {name:<28}{title}" for name, title in titles.items())])
    parser.add_argument("--rounds", type=_positive, help=f"turns of each server (default: {ROUNDS})")
    parser.add_argument("--seconds", type=_positive, help=f"load per turn (default: {SECONDS})")
    for option, names in (("--scenario", SCENARIOS), ("--server", SERVERS)):
        parser.add_argument(
            option, action="append", choices=names, metavar="NAME", help="only this one; may be repeated"
        )
    parser.add_argument("--quick", action="store_true", help=f"1 round of 1 s without {', '.join(SLOW)}; only prints")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, at least 1")
    return int(text)
