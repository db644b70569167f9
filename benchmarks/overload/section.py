"""What a run found, as a section of docs/performance.md, and what is judged of it."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.report import number
from benchmarks.sections import Section

HEADING = "## Ten times as many clients as a worker takes"
TIMES = 10
MOST_P99_RATIO = 3.0
LEAST_THROUGHPUT_RATIO = 0.9
MOST_GROWTH = 1.05
MOST_RECOVERY_SECONDS = 2.0
# Times the worst p99 that a slice had at capacity: the worst of other slices may well be a little worse.
NORMAL = 1.5
# Above it the clients, not the service, may be what is measured.
MOST_LOAD_SHARE = 0.9
COLUMNS = ("clients", "accepted/s", "refused/s", "p50 ms", "p99 ms", "p99 ms refused", "CPU µs an accepted")


def checks(kind: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    """What is judged, its figure, what is wanted, and whether it is so."""
    capacity, overload = kind["capacity"], kind["overload"]
    slower = overload["p99_ms"] / capacity["p99_ms"]
    done = overload["accepted"] / capacity["accepted"]
    grown = kind["pss_mb"]["second half"] / kind["pss_mb"]["first half"]
    back = kind["recovery_seconds"]
    others = Counter(capacity["others"]) + Counter(overload["others"])
    named = [f"{count} lost" if status == "0" else f"{count} of {status}" for status, count in others.items()]
    return [
        ("p99 of the accepted ÷ at capacity", number(slower), f"at most {MOST_P99_RATIO:g}", slower <= MOST_P99_RATIO),
        (
            "accepted/s ÷ at capacity",
            number(done),
            f"at least {LEAST_THROUGHPUT_RATIO:g}",
            done >= LEAST_THROUGHPUT_RATIO,
        ),
        (
            "memory (PSS), second half ÷ first half of the overload",
            number(grown),
            f"at most {MOST_GROWTH:g}",
            grown <= MOST_GROWTH,
        ),
        (
            "seconds until all is as before",
            "–" if back is None else number(back),
            f"at most {MOST_RECOVERY_SECONDS:g}",
            back is not None and back <= MOST_RECOVERY_SECONDS,
        ),
        ("neither accepted nor refused", ", ".join(named) or "none", "none", not named),
        (
            "of a core, what the clients took",
            number(kind["load_share"]),
            f"at most {MOST_LOAD_SHARE:g}",
            kind["load_share"] <= MOST_LOAD_SHARE,
        ),
    ]


def is_reached(kind: Mapping[str, Any]) -> bool:
    return all(reached for *_, reached in checks(kind))


def write(results: Mapping[str, Any]) -> str:
    lines = [
        HEADING,
        "",
        f"{results['machine']}; {results['made']}. One worker on one core, the clients on the other. A client has a "
        "connection and asks again as soon as it is answered, also where it is refused: none waits as Retry-After "
        f"says. Capacity: as many clients as are not refused, doubled until some are. Then {TIMES} times as many for "
        f"{results['seconds']} s; then all but the first leave. All is as before once no slice of 100 ms has a refusal "
        f"or a p99 above {NORMAL:g} times that of the worst such slice at capacity.",
    ]
    for kind in results["kinds"].values():
        pss = ", ".join(f"{value:.1f} {when}" for when, value in kind["pss_mb"].items())
        lines += [
            "",
            f"**{kind['title']}.** PSS in MB: {pss}.",
            "",
            f"| | {' | '.join(COLUMNS)} |",
            f"|---|{'--:|' * len(COLUMNS)}",
            *(_row("", step) for step in kind["steps"][:-1]),
            _row("capacity", kind["capacity"]),
            _row("overload", kind["overload"]),
            "",
            "| target | measured | wanted | |",
            "|---|--:|--:|--:|",
            *(
                f"| {what} | {figure} | {wanted} | {'reached' if reached else '**missed**'} |"
                for what, figure, wanted, reached in checks(kind)
            ),
        ]
    return "\n".join(lines)


def _row(title: str, figures: Mapping[str, Any]) -> str:
    names = ("accepted", "refused", "p50_ms", "p99_ms", "refused_p99_ms", "cpu_us")
    return f"| {title} | {figures['clients']:,} | {' | '.join(number(figures[name]) for name in names)} |"


SECTION = Section(HEADING, Path("benchmarks/overload.json"), write)
