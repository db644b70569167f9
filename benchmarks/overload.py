"""Ten times as many clients as a worker takes, none of them patient. Code 1 where a target is missed."""

import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import report
from benchmarks.bodies import body
from benchmarks.clients import Clients, ClientsProcess, Response, http_request, percentile
from benchmarks.process import Body, Running, cores, pinned_to, serving
from benchmarks.report import number
from benchmarks.servers import Server, fitting_room

WHOLE_SECONDS = 60
TIMES = 10
# Of each step of the search for the capacity, and of what is measured after the overload.
STEP_SECONDS, SETTLE_SECONDS, AFTER_SECONDS = 4, 1, 4
SLICE_SECONDS = 0.1
MEMORY_SECONDS = 0.5
MAX_CLIENTS = 1000
# Times the worst p99 of a slice at capacity: the worst of other slices may well be a little worse.
NORMAL = 1.5


@dataclass(frozen=True)
class Kind:
    """`clients`: how many the search for the capacity begins with."""

    title: str
    server: Server
    path: str
    encoding: str
    clients: int


KINDS = {
    "quick": Kind(
        "`clothing/1`, one picture as JSON, on the event loop",
        fitting_room.server(),
        fitting_room.CLOTHING,
        "v1_json",
        125,
    ),
    "slow": Kind(
        "`photos/1`, a 400x533 JPEG, in the executor",
        fitting_room.server("--model-name", "photos", models="models", prepare=None),
        "/v1/models/photos:predict",
        "jpeg",
        7,
    ),
}


class ImpatientClients(Clients):
    def __init__(self, port: int, path: str, sent: Body) -> None:
        super().__init__(port)
        self._request = http_request(path, sent)

    def next_request(self) -> tuple[None, bytes]:
        return None, self._request


@dataclass(frozen=True)
class Phase:
    """`load_share`: of their core, what the clients took. `cpu_seconds`: the service's."""

    clients: int
    began: float
    ended: float
    load_share: float
    cpu_seconds: float
    pss_mb: list[float]


def main() -> None:
    parser = report.parser("benchmarks.overload", f"{__doc__}\nThe docs are written after a whole run without flags.")
    parser.add_argument("--seconds", type=int, default=WHOLE_SECONDS, help="of the overload (default: %(default)s)")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only this one; may be given several times")
    parser.add_argument("--flag", action="append", default=[], help="of the service: --flag=--max-queue-ms=20")
    options = parser.parse_args()
    kinds = {name: _measure(KINDS[name], options.seconds, options.flag) for name in options.kind or KINDS}
    is_whole = options.seconds >= WHOLE_SECONDS and not (options.kind or options.flag or options.dry_run)
    sys.exit(not report.finish("overload", {"seconds": options.seconds, "kinds": kinds}, write=is_whole))


def _measure(kind: Kind, seconds: int, flags: list[str]) -> dict[str, Any]:
    server = replace(kind.server, command=(*kind.server.command, *flags))
    sent, (core, load_core) = body(kind.encoding), cores()
    with (
        tempfile.TemporaryDirectory(prefix="overload-") as folder,
        pinned_to(load_core),
        serving(server, kind.path, sent, (core,), Path(folder)) as running,
        ClientsProcess(ImpatientClients, running.port, kind.path, sent) as clients,
    ):
        phases = _phases(clients, running, kind, seconds)
        responses = clients.call("end")
    before, over, after = phases["capacity"], phases["overload"], phases.pop("after")
    half = len(over.pss_mb) // 2
    worst = max(p99 for _, p99, _ in _slices(responses, before))
    pss_mb = {
        "capacity": median(before.pss_mb),
        "first half": median(over.pss_mb[:half]),
        "second half": median(over.pss_mb[half:]),
        "after": after.pss_mb[-1],
    }
    return {
        "title": kind.title,
        "phases": {name: _figures(responses, phase) for name, phase in phases.items()},
        "pss_mb": pss_mb,
        "recovery_seconds": _recovery_seconds(responses, NORMAL * worst, after),
        "load_share": max(before.load_share, over.load_share),
    }


def _phases(clients: ClientsProcess, running: Running, kind: Kind, seconds: int) -> dict[str, Phase]:
    """Double the clients until some are rejected; then as many as were not, ten times as many, and as many again."""
    steps, count, rejected = [], kind.clients, 0
    while count <= MAX_CLIENTS and not rejected:
        clients.call("resize", count)
        time.sleep(SETTLE_SECONDS)
        steps.append(_phase(clients, running, count, STEP_SECONDS))
        rejected = clients.call("resize", count)
        count *= 2
    if rejected:
        steps.pop()
    if not steps:
        raise SystemExit(f"{kind.title}: of {kind.clients} clients some are rejected already")
    full = steps.pop().clients
    clients.call("resize", full)
    time.sleep(SETTLE_SECONDS)
    phases = {f"search {step.clients}": step for step in steps}
    phases["capacity"] = _phase(clients, running, full, seconds / 3)
    clients.call("resize", TIMES * full)
    phases["overload"] = _phase(clients, running, TIMES * full, seconds)
    clients.call("resize", full)
    phases["after"] = _phase(clients, running, full, AFTER_SECONDS)
    return phases


def _phase(clients: ClientsProcess, running: Running, count: int, seconds: float) -> Phase:
    print(f"  {count} clients for {seconds:.0f} s", file=sys.stderr, flush=True)
    began, load_cpu, cpu, pss = time.monotonic(), clients.cpu_seconds(), running.cpu_seconds(), []
    while (left := began + seconds - time.monotonic()) > 0:
        pss.append(running.pss_bytes() / 2**20)
        time.sleep(min(left, MEMORY_SECONDS))
    ended = time.monotonic()
    load_share = (clients.cpu_seconds() - load_cpu) / (ended - began)
    return Phase(count, began, ended, load_share, running.cpu_seconds() - cpu, pss)


def _figures(responses: list[Response], phase: Phase) -> dict[str, Any]:
    """By second; latencies and CPU of the accepted, which bear the cost of the rejected, too."""
    seconds = phase.ended - phase.began
    mine = [one for one in responses if phase.began <= one.received < phase.ended]
    accepted = [one.received - one.sent for one in mine if one.status == 200]
    rejected = [one.received - one.sent for one in mine if one.status == 429]
    if others := Counter(one.status for one in mine if one.status not in (200, 429)):
        print(f"  neither accepted nor rejected, by status (0: lost): {dict(others)}", file=sys.stderr)
    if not accepted:
        raise RuntimeError(f"not one request of {phase.clients} clients was accepted in {seconds:.0f} s")
    return {
        "clients": phase.clients,
        "accepted": len(accepted) / seconds,
        "rejected": len(rejected) / seconds,
        "others": others.total(),
        "p50_ms": percentile(accepted, 50) * 1e3,
        "p99_ms": percentile(accepted, 99) * 1e3,
        "rejected_p99_ms": percentile(rejected, 99) * 1e3 if rejected else 0.0,
        "cpu_us": phase.cpu_seconds / len(accepted) * 1e6,
    }


def _slices(responses: list[Response], phase: Phase) -> list[tuple[float, float, bool]]:
    """In steps of SLICE_SECONDS: when each began, the p99 of the accepted in seconds (0: there was none), and whether
    anything else than 200 came."""
    count = round((phase.ended - phase.began) / SLICE_SECONDS)
    accepted: list[list[float]] = [[] for _ in range(count)]
    is_disturbed = [False] * count
    for one in responses:
        place = math.floor((one.received - phase.began) / SLICE_SECONDS)
        if 0 <= place < count:
            is_disturbed[place] |= one.status != 200
            if one.status == 200:
                accepted[place].append(one.received - one.sent)
    return [
        (phase.began + place * SLICE_SECONDS, percentile(times, 99) if times else 0.0, is_disturbed[place])
        for place, times in enumerate(accepted)
    ]


def _recovery_seconds(responses: list[Response], normal: float, after: Phase) -> float | None:
    """After how long no slice has a rejection or a p99 above `normal` seconds; None: not until the end."""
    bad = [began for began, p99, is_disturbed in _slices(responses, after) if is_disturbed or p99 > normal]
    back = bad[-1] + SLICE_SECONDS - after.began if bad else 0.0
    return back if back < after.ended - after.began - SLICE_SECONDS / 2 else None


def section(found: Mapping[str, Any]) -> list[str]:
    parts = [f"The overload lasted {found['seconds']} s."]
    for kind in found["kinds"].values():
        capacity, overload, pss = kind["phases"]["capacity"], kind["phases"]["overload"], kind["pss_mb"]
        columns = ("accepted", "rejected", "p50_ms", "p99_ms", "rejected_p99_ms", "cpu_us")
        done, growth = overload["accepted"] / capacity["accepted"], pss["second half"] / pss["first half"]
        recovery = math.inf if kind["recovery_seconds"] is None else kind["recovery_seconds"]
        parts += [
            f"**{kind['title']}.** PSS in MB: {', '.join(f'{value:.1f} {when}' for when, value in pss.items())}.",
            report.table(
                [
                    "",
                    "clients",
                    "accepted/s",
                    "rejected/s",
                    "p50 ms",
                    "p99 ms",
                    "p99 ms rejected",
                    "CPU µs an accepted",
                ],
                [
                    [name.split()[0], f"{one['clients']:,}", *(number(one[column]) for column in columns)]
                    for name, one in kind["phases"].items()
                ],
            ),
            report.targets(
                [
                    report.target("p99 of the accepted ÷ at capacity", overload["p99_ms"] / capacity["p99_ms"], 3),
                    report.target("accepted/s ÷ at capacity", done, 0.9, at_least=True),
                    report.target("memory (PSS), second half ÷ first half of the overload", growth, 1.05),
                    report.target("seconds until all is as before", recovery, 2),
                    report.target("neither accepted nor rejected", capacity["others"] + overload["others"], 0),
                    # Above it the clients, not the service, may be what is measured.
                    report.target("of a core, what the clients took", kind["load_share"], 0.9),
                ]
            ),
        ]
    return parts


if __name__ == "__main__":
    main()
