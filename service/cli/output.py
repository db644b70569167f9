"""What the command prints: a table of predictions, how many are right, progress."""

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

MAX_SHOWN_LABELS = 3
MAX_VALUE_CHARACTERS = 100
MAX_CONFUSIONS = 10
# Of fewer pictures a share says more than they can.
MIN_FOR_SHARE = 100
# How far the sum of probabilities in low precision may be from 1.
SUM_TOLERANCE = 0.05


def rows_of(
    name: str,
    body: dict[str, Any],
    outlier_scores: str = "",
    first_row: int | None = None,
    top_k: int | None = None,
) -> list[list[str]]:
    """Table rows [input, prediction, ...]. `outlier_scores`: the response's header. `first_row`: the place of the
    body's first row in its input; None if it is the whole input."""
    scores = outlier_scores.split(", ") if outlier_scores else []
    found = body.get("results", body.get("predictions"))
    if not isinstance(found, list):
        return [[name, _value(body.get("outputs", found))]]
    rows: list[list[str]] = []
    for index, value in enumerate(found, start=first_row or 0):
        row = [name if len(found) == 1 and first_row is None else f"{name}[{index}]"]
        if "results" in body:
            row += _labels(value, top_k or MAX_SHOWN_LABELS)
            if len(rows) < len(scores):
                row.append(_outlier_note(scores[len(rows)]))
        else:
            row.append(_value(value))
        rows.append(row)
    return rows


def _labels(results: Sequence[tuple[str, float | None]], count: int) -> list[str]:
    """The best of a row's results, in percent if their scores are probabilities. `results`: of all labels."""
    scores = [score for _, score in results if score is not None]
    are_probabilities = all(0 <= score <= 1 for score in scores) and abs(sum(scores) - 1) <= SUM_TOLERANCE
    return [
        f"{label} –" if score is None else f"{label} {score:.1%}" if are_probabilities else f"{label} {score:.4g}"
        for label, score in results[:count]
    ]


def _value(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[: MAX_VALUE_CHARACTERS - 3]}..."


def _outlier_note(score: str) -> str:
    # The header says Infinity if the score is not finite.
    return f"unlike anything it knows ({score})" if not float(score.replace("Infinity", "inf")) <= 1 else ""


class Table:
    """Prints rows with aligned columns, a block at a time: of a million rows only a block is kept."""

    BLOCK = 200

    def __init__(self) -> None:
        self._rows: list[list[str]] = []
        self._widths: list[int] = []

    def add(self, rows: Iterable[list[str]]) -> bool:
        """Whether there is a block to print now."""
        self._rows += rows
        return len(self._rows) >= self.BLOCK

    def print(self) -> None:
        columns = max(map(len, self._rows), default=0)
        self._widths += [0] * (columns - len(self._widths))
        for row in self._rows:
            self._widths[: len(row)] = map(max, self._widths, map(len, row))
        for row in self._rows:
            print("  ".join(map(str.ljust, row, self._widths)).rstrip())
        self._rows.clear()
        sys.stdout.flush()


class Evaluation:
    """Compares predictions with the folders that pictures lie in, where these are named like the model's labels."""

    def __init__(self) -> None:
        # The model's, by what a folder may be named.
        self._labels: dict[str, str] = {}
        self._predicted: Counter[tuple[str, str]] = Counter()
        self._unknown_folders: Counter[str] = Counter()
        # Inputs in no such folder.
        self._beside = 0
        self._not_answered = 0
        self._has_no_labels = False

    def add(self, folders: Sequence[str], body: dict[str, Any] | None) -> str | None:
        """The response for a picture in these folders; None if there is none. Returns the label that one of the
        folders is named like."""
        if not folders:
            self._beside += 1
            return None
        if body is None:
            self._not_answered += 1
            return None
        results = body.get("results")
        if not results:
            self._has_no_labels = True
            return None
        if not self._labels:
            labels = sorted(label for label, _ in results[0])
            self._labels = {_key(label): label for label in labels} | {label: label for label in labels}
        names = (name for folder in folders for name in (folder, _key(folder)))
        expected = next((self._labels[name] for name in names if name and name in self._labels), None)
        if expected is None:
            self._unknown_folders[folders[0]] += 1
        else:
            self._predicted[expected, results[0][0][0]] += 1
        return expected

    def lines(self) -> list[str]:
        """Empty if no picture lies in a folder of the folder on the command line."""
        if self._has_no_labels:
            return ["", "No accuracy: the model has no labels to compare the folders with."]
        unknown = ", ".join(map(repr, sorted(self._unknown_folders)))
        if unknown and not self._predicted:
            labels = ", ".join(self._all_labels())
            return ["", f"No accuracy: the folders {unknown} are not named like labels of the model ({labels})."]
        if not self._predicted:
            return []
        lines = ["", f"Accuracy: {_share(self._right(), self._predicted.total())}", *self._classes()]
        wrong = [(-count, pair) for pair, count in self._predicted.items() if pair[0] != pair[1]]
        if wrong:
            lines += ["", "Most frequent confusions:"]
            lines += [f"  {-count:>5}  {was} taken for {said}" for count, (was, said) in sorted(wrong)[:MAX_CONFUSIONS]]
        notes = {
            f"in {unknown}, which no label of the model is named": self._unknown_folders.total(),
            "beside the folders": self._beside,
            "without an answer": self._not_answered,
        }
        counted = [f"  {count:>5}  {note}" for note, count in notes.items() if count]
        return [*lines, "", "Not counted:", *counted] if counted else lines

    def _all_labels(self) -> list[str]:
        return sorted(set(self._labels.values()))

    def _right(self) -> int:
        return sum(count for (was, said), count in self._predicted.items() if was == said)

    def _classes(self) -> Iterator[str]:
        totals: Counter[str] = Counter()
        for (label, _), count in self._predicted.items():
            totals[label] += count
        width = max(map(len, totals))
        for label in sorted(totals):
            yield f"  {label:<{width}}  {_share(self._predicted[label, label], totals[label])}"


def _share(count: int, total: int) -> str:
    return f"{count} of {total}" + (f" ({count / total:.1%})" if total >= MIN_FOR_SHARE else "")


def _key(name: str) -> str:
    """A folder cannot be called `T-shirt/top`; `t-shirt_top` stands for it."""
    return re.sub(r"\W|_", "", name).casefold()


class Progress:
    """A progress bar on a terminal, for more than a few rows."""

    WIDTH = 30
    MIN_TOTAL = 5

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._is_shown = total >= self.MIN_TOTAL and sys.stderr.isatty()

    def step(self, count: int) -> None:
        self._done += count
        if self._is_shown:
            bar = "█" * (self.WIDTH * self._done // self._total)
            print(f"\r{bar:<{self.WIDTH}} {self._done}/{self._total}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Before something else is printed."""
        if self._is_shown:
            print("\r" + " " * (self.WIDTH + 20) + "\r", end="", file=sys.stderr, flush=True)
