"""Sections of docs/performance.md, or of another page, that runs of their own write, and that `python -m benchmarks`
leaves as they are."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOCUMENT = Path("docs/performance.md")
# A new section stands in front of this one.
NEXT = "## Measure it yourself"


@dataclass(frozen=True)
class Section:
    """`write` makes the section's text, heading and all, from what the run found."""

    heading: str
    results: Path
    write: Callable[[Mapping[str, Any]], str]
    # Another page than DOCUMENT; the heading must stand in it.
    page: Path | None = None

    def keep(self, found: Mapping[str, Any]) -> None:
        """Into the results' file and the page."""
        self.results.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        page = self.page or DOCUMENT
        page.write_text(self.place(page.read_text()))

    def place(self, page: str) -> str:
        """The page with what was kept last; as it is where nothing was."""
        if not self.results.exists():
            return page
        text = self.write(json.loads(self.results.read_text()))
        before, heading, after = page.partition(f"{self.heading}\n")
        if heading:
            _, following, rest = after.partition("\n## ")
            return f"{before}{text}\n" + (f"{following}{rest}" if following else "")
        before, heading, after = page.partition(f"{NEXT}\n")
        return f"{before}{text}\n\n{heading}{after}"
