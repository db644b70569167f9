"""What a run found, as a section of docs/performance.md."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.report import number
from benchmarks.sections import Section

HEADING = "## Versions that come and go under load"
LATENCIES = ("p50_ms", "p99_ms", "p999_ms")


def write(results: Mapping[str, Any]) -> str:
    changes = ", ".join(f"{count} {what}" for what, count in results["changes"].items())
    quiet, reloading = results["phases"]["without"], results["phases"]["with"]
    ratios = [number(reloading[name] / quiet[name]) for name in LATENCIES]
    return "\n".join(
        [
            HEADING,
            "",
            f"{results['machine']}; {results['made']}. {results['seconds']} s with reloads and as long without, in "
            f"{results['steps']} turns each (A/B/A/B); a steady {results['requests_per_second']} requests/s over "
            f"{results['connections']} kept-alive connections, {results['workers']} workers. "
            f"Versions: {changes}.",
            "",
            "Requests that name a version, a label, or neither, each for another number. Version N answers 3x + N, so "
            f"that every answer tells who gave it: {results['checked']:,} were checked, {results['faults']:,} failed "
            "or came from a version that it may not come from. "
            "While a label moves, that is the one before or the one after; else only the one that it names."
            + _between(results),
            "",
            "| | answers | failed | misrouted | p50 ms | p99 ms | p99.9 ms |",
            "|---|--:|--:|--:|--:|--:|--:|",
            _row("without reloads", quiet),
            _row("with reloads", reloading),
            f"| with ÷ without | | | | {' | '.join(ratios)} |",
        ]
    )


def _between(results: Mapping[str, Any]) -> str:
    if "between" not in results:
        return ""
    return (
        " Each other way to put one version in the place of another has a model of its own, and only where the old one "
        f"is unloaded first, requests wait, or get 503: {results['between']:,} did."
    )


def _row(title: str, figures: Mapping[str, Any]) -> str:
    counts = " | ".join(f"{figures[name]:,}" for name in ("answers", "failed", "misrouted"))
    return f"| {title} | {counts} | {' | '.join(number(figures[name]) for name in LATENCIES)} |"


SECTION = Section(HEADING, Path("benchmarks/reload.json"), write)
