"""Figures as Markdown tables and as JSON."""

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.measure import Figures, Result
from benchmarks.scenarios import SCENARIOS, Scenario
from benchmarks.servers import Server
from benchmarks.targets import TARGETS, Figure, Target, Verdict, verdict

COLUMNS: Mapping[str, str] = {
    "requests_per_second": "requests/s",
    "pictures_per_second": "pictures/s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "cpu_us": "CPU µs a request",
    "start_seconds": "start s",
    "pss_mb": "PSS MB",
}
LOAD = ("requests_per_second", "p50_ms", "p99_ms", "cpu_us")
LOAD_OF_SEVERAL = ("requests_per_second", "pictures_per_second", "p50_ms", "p99_ms", "cpu_us")
START = ("start_seconds", "pss_mb")


@dataclass(frozen=True)
class Run:
    machine: str
    made: str
    rounds: int
    seconds: int
    cores: tuple[int, int]
    results: Mapping[str, Result]
    servers: Mapping[str, Server]

    def median(self, scenario: str, server: str, name: str) -> float | None:
        result = self.results.get(scenario)
        values = [getattr(one, name) for one in result.rounds.get(server, [])] if result else []
        values = [value for value in values if value is not None]
        return statistics.median(values) if values else None

    def verdicts(self, scenario: str | None = None) -> list[Verdict]:
        mine = [target for target in TARGETS if scenario in (None, target.of.scenario)]
        return [verdict(target, self.median) for target in mine if all(map(self._asked, target.figures))]

    def _asked(self, figure: Figure) -> bool:
        """Whether this run was to measure it; a part of the whole has no word on the other targets."""
        result = self.results.get(figure.scenario)
        return result is not None and (figure.server in result.rounds or figure.server in result.left_out)


def machine(run: Run) -> str:
    others = [
        one.others_share
        for result in run.results.values()
        for figures in result.rounds.values()
        for one in figures
        if one.others_share is not None
    ]
    noise = f" Beside server and load, others took {statistics.median(others):.0%} of a core." if others else ""
    return (
        f"{run.machine}; {run.made}. Medians of {run.rounds} interleaved {_plural(run.rounds, 'round')} of "
        f"{run.seconds} s each.{noise}"
    )


def tables(run: Run) -> str:
    return "\n\n".join(section(run, name) for name in run.results)


def section(run: Run, name: str) -> str:
    parts = [f"## {SCENARIOS[name].title}", caption(run, name)]
    if run.results[name].rounds:
        parts += [figures_table(run, name), ratios_table(run, name)]
    parts += [verdicts_table(run.verdicts(name))]
    parts += [f"Left out: {run.servers[server].title}: {why}." for server, why in run.results[name].left_out.items()]
    return "\n\n".join(part for part in parts if part)


def caption(run: Run, name: str) -> str:
    scenario = SCENARIOS[name]
    first, second = run.cores
    if scenario.start:
        return (
            "From the start of the process to its first good answer; proportional memory of the whole process tree "
            f"after a second of requests. Each server alone, on cores {first} and {second}."
        )
    size = run.results[name].body_bytes
    sent = f"{size / 1000:.1f} KB a request" if size else "No request"
    connections = f"{scenario.connections} kept-alive {_plural(scenario.connections, 'connection')}"
    if not scenario.held:
        return f"{sent}, {connections}. Server and wrk share cores {first} and {second}, as the scheduler has it."
    if scenario.workers == 1:
        return f"{sent}, {connections}. The server is held to core {first}, wrk to core {second}."
    return (
        f"{sent}, {connections}. The server is held to cores {first} and {second}, wrk to core {second}: it takes its "
        "share from the second worker."
    )


def figures_table(run: Run, name: str) -> str:
    columns = _columns(SCENARIOS[name])
    lines = _head(
        ["server", *(COLUMNS[column] for column in columns), *(["CPU, range"] if "cpu_us" in columns else [])]
    )
    for server, rounds in run.results[name].rounds.items():
        cells = [number(run.median(name, server, column)) for column in columns]
        if "cpu_us" in columns:
            cells.append(_range([one.cpu_us for one in rounds if one.cpu_us is not None]))
        lines.append(_row([_title(run.servers[server]), *cells]))
    return "\n".join(lines)


def ratios_table(run: Run, name: str) -> str:
    """Ours divided by each yardstick; empty without both."""
    columns = _columns(SCENARIOS[name])
    present = list(run.results[name].rounds)
    yardsticks = [server for server in present if run.servers[server].yardstick]
    lines = []
    for ours in (server for server in present if not run.servers[server].yardstick):
        for yardstick in yardsticks:
            # In process there is no queue of sixteen to wait in.
            alone = run.servers[yardstick].in_process
            cells = [
                "–"
                if alone and column in ("p50_ms", "p99_ms")
                else number(ratio(run.median(name, ours, column), run.median(name, yardstick, column)))
                for column in columns
            ]
            lines.append(_row([f"{run.servers[ours].title} ÷ {_title(run.servers[yardstick])}", *cells]))
    return "\n".join([*_head(["ratio", *(COLUMNS[column] for column in columns)]), *lines]) if lines else ""


def verdicts_table(verdicts: list[Verdict]) -> str:
    lines = [
        _row(
            [
                one.target.text,
                number(one.value),
                f"{_bound(one.target)}",
                one.word if one.word != "missed" else "**missed**",
            ]
        )
        for one in verdicts
    ]
    return "\n".join([*_head(["target", "measured", "wanted", ""]), *lines]) if lines else ""


def summary(run: Run) -> str:
    words = [one.word for one in run.verdicts()]
    reached = sum(word.startswith("reached") for word in words)
    return f"{reached} of {len(words)} targets are reached" + (
        f"; {words.count('not measured')} could not be measured." if "not measured" in words else "."
    )


def document(template: str, run: Run) -> str:
    parts = {"machine": machine(run), "summary": summary(run), "tables": tables(run)}
    for name, text in parts.items():
        template = template.replace(f"{{{name}}}", text)
    return template


def as_json(run: Run) -> dict[str, Any]:
    scenarios = {
        name: {
            **asdict(SCENARIOS[name]),
            "body_bytes": result.body_bytes,
            "left_out": result.left_out,
            "rounds": {server: [_rounded(one) for one in rounds] for server, rounds in result.rounds.items()},
        }
        for name, result in run.results.items()
    }
    targets = [
        {
            "scenario": one.target.of.scenario,
            "target": one.target.text,
            "wanted": _bound(one.target),
            "measured": None if one.value is None else float(f"{one.value:.4g}"),
            "verdict": one.word,
        }
        for one in run.verdicts()
    ]
    about = {"machine": run.machine, "made": run.made, "rounds": run.rounds, "seconds": run.seconds, "cores": run.cores}
    return {**about, "targets": targets, "scenarios": scenarios}


def ratio(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None


def number(value: float | None) -> str:
    """Three significant digits, whole ones with thousands' commas."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def _rounded(figures: Figures) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in asdict(figures).items() if value is not None}


def _columns(scenario: Scenario) -> tuple[str, ...]:
    if scenario.start:
        return START
    return LOAD if scenario.pictures == 1 else LOAD_OF_SEVERAL


def _bound(target: Target) -> str:
    aim = f", aim at {target.aim:.3g}" if target.aim is not None else ""
    return f"{'at least' if target.at_least else 'at most'} {target.limit:.3g}{aim}"


def _title(server: Server) -> str:
    return f"({server.yardstick}) {server.title}" if len(server.yardstick) == 1 else server.title


def _range(values: list[float]) -> str:
    return f"{number(min(values))} to {number(max(values))}" if values else "–"


def _plural(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"


def _head(names: list[str]) -> list[str]:
    return [_row(names), "|---|" + "--:|" * (len(names) - 1)]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
