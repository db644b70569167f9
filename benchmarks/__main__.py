"""Speed, as ratios to yardsticks that are measured in the same run."""

import argparse
import json
import os
import signal
import sys
import tempfile
import textwrap
from dataclasses import replace
from pathlib import Path

from benchmarks import bodies, machine, page, report, scaling, scrape, soak
from benchmarks.load import find_wrk
from benchmarks.measure import Bench, Result, body_name
from benchmarks.overload import section as overload_section
from benchmarks.reload import section as reload_section
from benchmarks.scenarios import SCENARIOS, SLOW, Scenario
from benchmarks.sections import DOCUMENT
from benchmarks.servers import Server, all_servers

RESULTS = Path("benchmarks/results.json")
TEMPLATE = Path("benchmarks/performance.md")
ROUNDS, SECONDS = 3, 3


def main() -> None:
    servers = all_servers()
    options = _parser(servers).parse_args()
    options.rounds = options.rounds or (1 if options.quick else ROUNDS)
    options.seconds = options.seconds or (1 if options.quick else SECONDS)
    find_wrk()
    # So that servers are stopped then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    cores = machine.cores()
    chosen = {
        name: replace(scenario, servers=tuple(_chosen_servers(scenario, options)))
        for name, scenario in SCENARIOS.items()
        if not options.scenario or name in options.scenario
    }
    chosen = {name: scenario for name, scenario in chosen.items() if scenario.servers}
    if not chosen:
        raise SystemExit("none of these servers takes part in these scenarios")
    results = _measure(chosen, servers, cores, options.rounds, options.seconds)
    run = report.Run(
        **machine.provenance(with_wrk=True),
        rounds=options.rounds,
        seconds=options.seconds,
        cores=cores,
        results=results,
        servers=servers,
    )
    print(f"{report.machine(run)}\n\n{report.tables(run)}\n\n{report.summary(run)}")
    if options.quick or options.scenario or options.server:
        print(f"\nA part of the whole: {RESULTS} and {DOCUMENT} are left as they are.")
        return
    RESULTS.write_text(json.dumps(report.as_json(run), indent=1, ensure_ascii=False) + "\n")
    document = report.document(TEMPLATE.read_text(), run)
    for part in (reload_section, overload_section, scaling, scrape, soak, page):
        document = part.SECTION.place(document)
    DOCUMENT.write_text(document)
    print(f"\nWritten to {RESULTS} and {DOCUMENT}.")


def _measure(
    chosen: dict[str, Scenario], servers: dict[str, Server], cores: tuple[int, int], rounds: int, seconds: int
) -> dict[str, Result]:
    wanted = {
        body_name(scenario, servers[name])
        for scenario in chosen.values()
        for name in scenario.servers
        if scenario.sends in servers[name].routes and not servers[name].in_process
    }
    before = os.sched_getaffinity(0)
    # This command's own turns at the processor shall not be the server's loss.
    os.sched_setaffinity(0, {cores[1]})
    results = {}
    try:
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
            bench = Bench(servers, bodies.make(wanted, Path(folder)), cores, Path(folder), _say)
            try:
                names = list(chosen)
                for index, name in enumerate(names):
                    _say(f"{index + 1} of {len(names)}: {name}")
                    later = [chosen[other] for other in names[index:] if not chosen[other].start]
                    bench.keep(
                        {(server, scenario.workers, scenario.held) for scenario in later for server in scenario.servers}
                    )
                    results[name] = bench.scenario(chosen[name], list(chosen[name].servers), rounds, seconds)
            finally:
                bench.keep(set())
    finally:
        os.sched_setaffinity(0, before)
    return results


def _chosen_servers(scenario: Scenario, options: argparse.Namespace) -> list[str]:
    return [
        name
        for name in scenario.servers
        if (not options.server or name in options.server) and not (options.quick and name in SLOW)
    ]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser(servers: dict[str, Server]) -> argparse.ArgumentParser:
    scenarios = "\n".join(f"  {name:<28}{scenario.title}" for name, scenario in SCENARIOS.items())
    titles = "\n".join(f"  {name:<28}{server.title}" for name, server in servers.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=textwrap.fill(
            f"{__doc__} Starts each server, drives it with wrk, stops it; prints tables, progress on the error stream. "
            f"A whole run (a quarter of an hour) also writes {RESULTS} and {DOCUMENT}."
        ),
        epilog=f"scenarios:\n{scenarios}\n\nservers:\n{titles}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=_positive, help=f"turns that each server takes (default: {ROUNDS})")
    parser.add_argument("--seconds", type=_positive, help=f"load per turn, in seconds (default: {SECONDS})")
    parser.add_argument(
        "--scenario",
        action="append",
        choices=SCENARIOS,
        metavar="NAME",
        help="only this one; may be given several times",
    )
    parser.add_argument(
        "--server", action="append", choices=servers, metavar="NAME", help="only this one; may be given several times"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"under two minutes: one round of one second, without {', '.join(SLOW)}; writes nothing",
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, at least 1")
    return int(text)


if __name__ == "__main__":
    main()
