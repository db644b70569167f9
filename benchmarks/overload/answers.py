"""What clients were answered, when, and how long it took; and the figures that come of it."""

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SLICE_SECONDS = 0.1


class Answers:
    """Of each when it was asked for, when it came, in seconds of the machine's monotonic clock, which all processes
    share, and its status; 0: the connection was lost or refused."""

    def __init__(self) -> None:
        self.asked, self.came, self.statuses = array("d"), array("d"), array("H")
        # Than 200.
        self.others = 0

    def __len__(self) -> int:
        return len(self.statuses)

    def add(self, asked: float, came: float, status: int) -> None:
        self.asked.append(asked)
        self.came.append(came)
        self.statuses.append(status)
        self.others += status != 200

    def write(self, file: Path) -> None:
        with file.open("wb") as out:
            array("Q", [len(self)]).tofile(out)
            for column in (self.asked, self.came, self.statuses):
                column.tofile(out)

    @classmethod
    def read(cls, file: Path) -> "Answers":
        answers, count = cls(), array("Q")
        with file.open("rb") as content:
            count.fromfile(content, 1)
            for column in (answers.asked, answers.came, answers.statuses):
                column.fromfile(content, count[0])
        return answers

    def between(self, began: float, ended: float) -> Iterator[tuple[float, float, int]]:
        """Those that came then: when, after how many seconds, and with which status."""
        for asked, came, status in zip(self.asked, self.came, self.statuses, strict=True):
            if began <= came < ended:
                yield came, came - asked, status


@dataclass(frozen=True)
class Figures:
    """By second; latencies and CPU of the accepted, which bear the cost of the refusals, too. `others`: how many had
    another status."""

    clients: int
    accepted: float
    refused: float
    others: dict[str, int]
    p50_ms: float
    p99_ms: float
    refused_p99_ms: float
    cpu_us: float


def figures(answers: Answers, clients: int, began: float, ended: float, cpu_seconds: float) -> Figures:
    """Raises RuntimeError where nothing was accepted."""
    accepted, refused, others = [], [], Counter[str]()
    for _, seconds, status in answers.between(began, ended):
        if status == 200:
            accepted.append(seconds)
        elif status == 429:
            refused.append(seconds)
        else:
            others[str(status)] += 1
    if not accepted:
        raise RuntimeError(f"of {clients} clients not one was answered with 200 in {ended - began:.0f} s")
    return Figures(
        clients=clients,
        accepted=len(accepted) / (ended - began),
        refused=len(refused) / (ended - began),
        others=dict(others),
        p50_ms=percentile(accepted, 50) * 1e3,
        p99_ms=percentile(accepted, 99) * 1e3,
        refused_p99_ms=percentile(refused, 99) * 1e3 if refused else 0.0,
        cpu_us=cpu_seconds / len(accepted) * 1e6,
    )


def percentile(values: list[float], percent: int) -> float:
    """The smallest that so many percent do not exceed."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def slices(answers: Answers, began: float, ended: float) -> list[tuple[float, float, bool]]:
    """In steps of SLICE_SECONDS: when each began, the accepted answers' p99 in seconds (0: there was none), and
    whether something else than 200 came."""
    found: list[tuple[list[float], bool]] = [([], False) for _ in range(round((ended - began) / SLICE_SECONDS))]
    for came, seconds, status in answers.between(began, began + len(found) * SLICE_SECONDS):
        place = min(int((came - began) / SLICE_SECONDS), len(found) - 1)
        accepted, is_disturbed = found[place]
        if status == 200:
            accepted.append(seconds)
        found[place] = accepted, is_disturbed or status != 200
    return [
        (began + place * SLICE_SECONDS, percentile(accepted, 99) if accepted else 0.0, is_disturbed)
        for place, (accepted, is_disturbed) in enumerate(found)
    ]


def recovery_seconds(answers: Answers, normal: float, began: float, ended: float) -> float | None:
    """After how long every slice is without refusals and its p99 within `normal`, in seconds; None: not until the
    end."""
    bad = [moment for moment, p99, is_disturbed in slices(answers, began, ended) if is_disturbed or p99 > normal]
    back = (bad[-1] + SLICE_SECONDS if bad else began) - began
    return back if back < ended - began - SLICE_SECONDS / 2 else None
