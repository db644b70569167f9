"""What a replay has come to: counts over all requests, as a table and as JSON."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from service.inference.shadow import all_close
from service.observability.capture import Arrays
from service.tensors.dtypes import Array

# Of the changes from one label to another, the most frequent.
MOST_CHANGES = 20


class Answers(NamedTuple):
    """`labels`: which came first in each row, where the version has labels."""

    outputs: Arrays
    labels: list[str] | None


@dataclass
class Tally:
    model: str
    version: int
    engine: str
    requests: int = 0
    rows: int = 0
    agreeing: int = 0
    seconds: float = 0.0
    # Over all numbers that both gave, and the output that has it.
    largest_difference: float = 0.0
    largest_in: str = ""
    by_version: Counter[int] = field(default_factory=Counter)
    # Rows by the label then and the label now.
    confusion: Counter[tuple[str, str]] = field(default_factory=Counter)
    of_other_models: Counter[str] = field(default_factory=Counter)
    # Places in the files, with what was wrong there.
    not_run: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    def add(self, version: int, then: Answers, now: Answers, rows: int, seconds: float) -> None:
        """`version`: which gave the answer then."""
        self.requests += 1
        self.rows += rows
        self.seconds += seconds
        self.by_version[version] += 1
        if then.labels is not None and now.labels is not None:
            self.agreeing += then.labels == now.labels
            self.confusion.update(zip(then.labels, now.labels, strict=False))
        else:
            self.agreeing += all_close(then.outputs, now.outputs)
        for name in then.outputs.keys() & now.outputs.keys():
            difference = _difference(then.outputs[name], now.outputs[name])
            if difference > self.largest_difference or not self.largest_in:
                self.largest_difference, self.largest_in = difference, name

    def why_nothing(self) -> str:
        """For who wants to know why there is nothing to compare."""
        if self.not_run:
            return f"none of the {len(self.not_run)} requests can be run; the first: {self.not_run[0]}"
        found = [f"{count} of {model}" for model, count in sorted(self.of_other_models.items())]
        if self.damaged:
            found.append(f"{len(self.damaged)} damaged {'line' if len(self.damaged) == 1 else 'lines'}")
        return f"no request of {self.model} was captured" + (f"; there are {', '.join(found)}" if found else "")

    def as_json(self) -> dict[str, Any]:
        confusion: dict[str, dict[str, int]] = {}
        for (then, now), rows in sorted(self.confusion.items()):
            confusion.setdefault(then, {})[now] = rows
        return {
            "model": self.model,
            "version": self.version,
            "engine": self.engine,
            "requests": self.requests,
            "requests_by_version": {str(version): count for version, count in sorted(self.by_version.items())},
            "rows": self.rows,
            "agreeing": self.agreeing,
            "agreement": self.agreeing / self.requests,
            "largest_difference": self.largest_difference,
            "largest_difference_in": self.largest_in,
            "microseconds_a_row": self.seconds / self.rows * 1e6 if self.rows else None,
            "confusion": confusion,
            "requests_of_other_models": dict(sorted(self.of_other_models.items())),
            "not_run": self.not_run,
            "damaged": self.damaged,
        }

    def as_text(self) -> str:
        then = ", ".join(f"{count:,} of version {version}" for version, count in sorted(self.by_version.items()))
        how = "the same label first in every row" if self.confusion else "all outputs close"
        facts = [
            ("asked now", f"{self.model}/{self.version}, by {self.engine}"),
            ("requests", f"{self.requests:,} ({then})"),
            ("rows", f"{self.rows:,}"),
            ("agreement", f"{self.agreeing / self.requests:.2%} of the requests: {how}"),
            ("largest difference", f"{self.largest_difference:.3g} in {self.largest_in}" if self.largest_in else "–"),
            ("time of a row", f"{self.seconds / self.rows * 1e6:,.0f} µs" if self.rows else "–"),
        ]
        if self.not_run:
            facts.append(("not run", f"{len(self.not_run):,}; the first: {self.not_run[0]}"))
        if self.of_other_models:
            facts.append(("of other models", ", ".join(sorted(self.of_other_models))))
        return "\n".join(chain(_table(("", ""), facts), self._labels(), self._changes()))

    def _labels(self) -> list[str]:
        if not self.confusion:
            return []
        then, now = Counter[str](), Counter[str]()
        for (before, after), rows in self.confusion.items():
            then[before] += rows
            now[after] += rows
        rows_of = [
            (label, f"{then[label]:,}", f"{now[label]:,}", f"{self.confusion[label, label]:,}")
            for label in sorted(then | now)
        ]
        return ["", *_table(("label", "rows then", "rows now", "in both"), rows_of)]

    def _changes(self) -> list[str]:
        changes = Counter({pair: rows for pair, rows in self.confusion.items() if pair[0] != pair[1]})
        if not changes:
            return []
        rows_of = [(then, now, f"{rows:,}") for (then, now), rows in changes.most_common(MOST_CHANGES)]
        more = sum(changes.values()) - sum(rows for _, rows in changes.most_common(MOST_CHANGES))
        table = _table(("then", "now", "rows"), rows_of)
        return ["", *table, *([f"\nand {more:,} rows of rarer changes"] if more else [])]


def _difference(then: Array, now: Array) -> float:
    """Infinite where only one of two numbers is one; 0 for strings, which have none."""
    if then.shape != now.shape or not then.size or "O" in (then.dtype.kind, now.dtype.kind):
        return 0.0
    before, after = then.astype(np.float64), now.astype(np.float64)
    with np.errstate(invalid="ignore"):
        differences = np.abs(before - after)
    differences[(before == after) | (np.isnan(before) & np.isnan(after))] = 0.0
    return float(np.nan_to_num(differences, nan=np.inf, posinf=np.inf).max())


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (columns, ("---",) * len(columns), *rows)]
