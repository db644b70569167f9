"""Results: kept in results.json, and written into the docs between `<!-- benchmarks: NAME -->` and `<!-- end -->`.

`python -m benchmarks.report` writes the docs anew from what is kept. What does not change from run to run is written by
hand, outside of these marks.
"""

import argparse
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

from benchmarks.load import find_wrk

RESULTS, DOCS = Path("benchmarks/results.json"), Path("docs")
MISSED = "**missed**"


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true", help=f"only print: {RESULTS} and {DOCS} stay as they are")
    return parser


def finish(name: str, found: dict[str, Any], *, write: bool, wrk: bool = False) -> bool:
    """Print what was found, and keep it; whether all targets are reached. `wrk`: it made the load."""
    # More digits than any page shows would be noise.
    exact = json.dumps(_provenance(wrk) | found)
    found = json.loads(exact, parse_float=lambda digits: float(f"{float(digits):.6g}"))
    print(text := section(name, found))
    if write:
        RESULTS.write_text(f"{_json(results() | {name: found})}\n")
        render(name)
    print(f"\n{'Written to' if write else 'Only printed: not written to'} {RESULTS} and {DOCS}.")
    return MISSED not in text


def results() -> dict[str, Any]:
    return json.loads(RESULTS.read_text())  # type: ignore[no-any-return]


def section(name: str, found: Mapping[str, Any]) -> str:
    parts = import_module(f"benchmarks.{name}").section(found)
    return "\n\n".join([f"{found['machine']}; {found['made']}.", *parts])


def render(name: str) -> None:
    """Write the section into the page that has its marks."""
    marks = re.compile(rf"(?<=<!-- benchmarks: {name} -->\n).*?(?=<!-- end -->)", re.DOTALL)
    text = f"\n{section(name, results()[name])}\n\n"
    for page in DOCS.rglob("*.md"):
        if marks.search(before := page.read_text()):
            page.write_text(marks.sub(lambda _: text, before, count=1))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """`left`: how many columns hold text; the others hold numbers."""
    head, *lines = (f"| {' | '.join(cells)} |" for cells in (columns, *rows))
    return "\n".join([head, f"|{'---|' * left}{'--:|' * (len(columns) - left)}", *lines])


def targets(rows: Iterable[Sequence[str]]) -> str:
    return table(["target", "measured", "wanted", ""], rows)


def target(
    text: str, value: float | None, limit: float, *, at_least: bool = False, aim: float | None = None
) -> list[str]:
    """A row of `targets`. `aim` lies beyond the limit."""
    wanted = f"{'at least' if at_least else 'at most'} {limit:.3g}" + (f", aim at {aim:.3g}" if aim else "")
    verdict = MISSED
    for bound, word in ((limit, "reached" if aim is None else "reached, short of the aim"), (aim, "reached")):
        if value is not None and bound is not None and (value >= bound if at_least else value <= bound):
            verdict = word
    return [text, number(value), wanted, verdict if value is not None else "not measured"]


def number(value: float | None) -> str:
    """Three significant digits, whole ones with thousands' commas."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value == 0 or abs(value) >= 99.95 else f"{value:#.3g}"


def _provenance(wrk: bool) -> dict[str, str]:
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    parts = [
        model[1] if model else platform.machine(),
        f"{os.cpu_count()} cores",
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
    ]
    if wrk:
        # wrk prints its version with its help, and leaves with 1.
        shown = subprocess.run([find_wrk(), "--version"], capture_output=True, text=True, timeout=10).stdout
        parts.append(f"wrk {shown.split()[1]}")
    return {"machine": ", ".join(parts), "made": f"{datetime.now(UTC):%Y-%m-%d}"}


def _json(value: object, indent: str = "") -> str:
    """A line for each dict of plain values, so that a change of the results can be read."""
    if not isinstance(value, dict) or not any(isinstance(inner, dict) for inner in value.values()):
        return json.dumps(value, ensure_ascii=False)
    lines = [f'{indent} "{name}": {_json(inner, indent + " ")}' for name, inner in value.items()]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


if __name__ == "__main__":
    for kept in results():
        render(kept)
