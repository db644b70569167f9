"""The rounds of a scenario: every server in turn, again and again (A/B/A/B): a machine's moods hit all alike."""

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.bodies import Body
from benchmarks.load import Load, drive, parse
from benchmarks.processes import LeftOut, Running, arguments, held_to, last_words, start, stop
from benchmarks.scenarios import Scenario
from benchmarks.servers import Server

WARM_UP_SECONDS = 1


@dataclass(frozen=True)
class Figures:
    """One server in one round; what a scenario does not measure is None."""

    requests_per_second: float | None = None
    pictures_per_second: float | None = None
    # Requests/s ÷ the cores that the server could use less what the load took of them.
    requests_per_free_core: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    cpu_us: float | None = None
    cpu_us_per_kb: float | None = None
    start_seconds: float | None = None
    pss_mb: float | None = None
    # Of one core: what ran beside server and load. Figures of a run with much of it mean little.
    others_share: float | None = None


@dataclass
class Result:
    rounds: dict[str, list[Figures]]
    # Server by server, why it is not in the table.
    left_out: dict[str, str]
    body_bytes: int = 0


# What a later scenario must have in common to take over a server: its name, its workers, and whether it is held.
Kept = tuple[str, int, bool]


class Bench:
    """Holds the servers that are up. A server stays up while a later scenario needs it as it is."""

    def __init__(
        self,
        servers: Mapping[str, Server],
        bodies: Mapping[str, Body],
        cores: tuple[int, int],
        folder: Path,
        say: Callable[[str], None],
    ) -> None:
        """`folder` takes what servers need on disk, and must outlive this."""
        self._servers, self._bodies, self._folder, self._say = servers, bodies, folder, say
        self._server_core, self._load_core = cores
        self._up: dict[Kept, Running] = {}
        self._lost: dict[Kept, str] = {}

    def scenario(self, scenario: Scenario, names: list[str], rounds: int, seconds: int) -> Result:
        result = Result({name: [] for name in names}, {})
        for number in range(rounds):
            for name in [name for name in names if name not in result.left_out]:
                self._say(f"  round {number + 1} of {rounds}: {name}")
                try:
                    result.rounds[name].append(self._once(scenario, name, seconds))
                except (LeftOut, RuntimeError, psutil.Error, subprocess.SubprocessError) as problem:
                    result.left_out[name] = str(problem)
                    self._say(f"  {name} is left out: {problem}")
        for name in result.left_out:
            del result.rounds[name]
        sizes = [
            len(self._body(scenario, name).content) for name in result.rounds if not self._servers[name].in_process
        ]
        result.body_bytes = sizes[0] if sizes else 0
        return result

    def keep(self, needed: set[Kept]) -> None:
        """Stops what is up and not among these."""
        for key in [key for key in self._up if key not in needed]:
            stop(self._up.pop(key))

    def _once(self, scenario: Scenario, name: str, seconds: int) -> Figures:
        server = self._servers[name]
        if scenario.sends not in server.routes:
            raise LeftOut(f"takes no {scenario.sends}")
        if server.in_process:
            return self._in_process(server, scenario, seconds)
        if scenario.start:
            return self._started(server, scenario, name)
        return self._driven(self._running(scenario, name), scenario, name, seconds)

    def _body(self, scenario: Scenario, name: str) -> Body:
        return self._bodies[body_name(scenario, self._servers[name])]

    def _cpus(self, scenario: Scenario) -> set[int]:
        alone = scenario.held and scenario.workers == 1
        return {self._server_core} if alone else {self._server_core, self._load_core}

    def _running(self, scenario: Scenario, name: str) -> Running:
        key = (name, scenario.workers, scenario.held)
        path, body = self._servers[name].routes[scenario.sends].path, self._body(scenario, name)
        if key in self._lost:
            raise LeftOut(self._lost[key])
        if key not in self._up:
            try:
                cpus = self._cpus(scenario)
                self._up[key] = start(self._servers[name], scenario.workers, cpus, path, body, self._folder)
            except LeftOut as problem:
                self._lost[key] = str(problem)
                raise
        elif refusal := self._up[key].ask(path, body):
            raise LeftOut(refusal)
        return self._up[key]

    def _driven(self, running: Running, scenario: Scenario, name: str, seconds: int) -> Figures:
        body = self._body(scenario, name)
        url = f"http://127.0.0.1:{running.port}{self._servers[name].routes[scenario.sends].path}"
        load_cores = {self._load_core} if scenario.held else {self._server_core, self._load_core}
        drive(url, body, scenario.connections, WARM_UP_SECONDS, load_cores)
        # A slow server still works on what wrk has given up: its answer to one more stands behind all of that.
        running.ask(self._servers[name].routes[scenario.sends].path, body)
        busy, cpu = _busy_seconds(), running.cpu_seconds()
        load = drive(url, body, scenario.connections, seconds, load_cores)
        busy, cpu = _busy_seconds() - busy, running.cpu_seconds() - cpu
        cpus = self._cpus(scenario)
        taken = load.cpu_seconds / load.seconds if self._load_core in cpus else 0.0
        return _figures(load, cpu, scenario, len(body.content), len(cpus) - taken, busy)

    def _started(self, server: Server, scenario: Scenario, name: str) -> Figures:
        body, path = self._body(scenario, name), server.routes[scenario.sends].path
        # Both cores, as when it is started for use. The memory is read when each worker has answered.
        cpus = {self._server_core, self._load_core}
        running = start(server, scenario.workers, cpus, path, body, self._folder)
        try:
            drive(f"http://127.0.0.1:{running.port}{path}", body, scenario.connections, 1, {self._load_core})
            return Figures(start_seconds=running.start_seconds, pss_mb=running.pss_bytes() / 1e6)
        finally:
            stop(running)

    def _in_process(self, server: Server, scenario: Scenario, seconds: int) -> Figures:
        encoding = server.routes[scenario.sends].encoding
        command, variables = arguments(server, encoding=encoding, pictures=scenario.pictures, seconds=seconds)
        with held_to({self._server_core}):
            done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=seconds + 60)
        if done.returncode:
            raise LeftOut(last_words(done.stderr))
        load = parse(done.stdout, server.title, 0.0)
        return _figures(load, load.cpu_seconds, scenario, 0, 1.0, None)


def body_name(scenario: Scenario, server: Server) -> str:
    return f"{server.routes[scenario.sends].encoding}-{scenario.pictures}"


def _figures(
    load: Load, cpu: float, scenario: Scenario, body_bytes: int, free_cores: float, busy: float | None
) -> Figures:
    rate, cpu_us = load.requests / load.seconds, cpu / load.requests * 1e6
    return Figures(
        requests_per_second=rate,
        pictures_per_second=rate * scenario.pictures,
        requests_per_free_core=rate / free_cores,
        p50_ms=load.p50 / 1e3,
        p99_ms=load.p99 / 1e3,
        cpu_us=cpu_us,
        cpu_us_per_kb=cpu_us / (body_bytes / 1000) if body_bytes else None,
        others_share=None if busy is None else max(0.0, (busy - cpu - load.cpu_seconds) / load.seconds),
    )


def _busy_seconds() -> float:
    """Of all cores together, since the machine's start; also what the host took away from it."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)
