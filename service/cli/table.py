"""Answers as lines for a person."""

import sys
import threading
from collections.abc import Sequence
from typing import Any

SHOWN_LABELS = 3
LONGEST_VALUE = 100


def rows_of(name: str, answer: dict[str, Any], outlier_scores: str) -> list[list[str]]:
    """[input, what the model says, ...] for each row; of several rows each input is told by its place."""
    scores = outlier_scores.split(", ") if outlier_scores else []
    found = answer.get("results", answer.get("predictions"))
    if found is None:
        return [[name, _value(answer["outputs"])]]
    rows = []
    for place, value in enumerate(found):
        row = [name if len(found) == 1 else f"{name}[{place}]"]
        if "results" in answer:
            row += [
                f"{label} {score:.1%}" if score is not None else f"{label} –" for label, score in value[:SHOWN_LABELS]
            ]
            if place < len(scores):
                row.append(_likeness(scores[place]))
        else:
            row.append(_value(value))
        rows.append(row)
    return rows


def table(rows: Sequence[Sequence[str]]) -> str:
    columns = max(map(len, rows))
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(columns)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows
    )


def _value(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def _likeness(score: str) -> str:
    # The header says Infinity where the score is no finite number.
    return f"unlike anything it knows ({score})" if not float(score.replace("Infinity", "inf")) <= 1 else ""


class Progress:
    """A bar for a person who waits; nothing where nobody looks, or there is little to wait for."""

    WIDTH = 30
    LEAST = 5

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._lock = threading.Lock()
        self._is_shown = total >= self.LEAST and sys.stderr.isatty()

    def step(self) -> None:
        with self._lock:
            self._done += 1
            if self._is_shown:
                bar = "█" * (self.WIDTH * self._done // self._total)
                print(f"\r{bar:<{self.WIDTH}} {self._done}/{self._total}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._is_shown:
            print("\r" + " " * (self.WIDTH + 20) + "\r", end="", file=sys.stderr, flush=True)
