"""Which version may answer whom and when, and what became of the answers."""

import statistics
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Answer:
    """Moments in seconds of the machine's monotonic clock, which all its processes share."""

    route: str
    began: float
    ended: float
    # 0: none came; then `problem` says what did.
    status: int
    # Which one answered, by the value; None: by none of them.
    version: int | None = None
    problem: str = ""


@dataclass
class Allowed:
    """`gaps`: the routes that may answer 503 between two versions, while both are allowed."""

    gaps: Set[str] = frozenset()
    _changes: dict[str, list[tuple[float, frozenset[int]]]] = field(default_factory=dict)

    def change(self, route: str, versions: Iterable[int], moment: float) -> None:
        """From this moment on these versions may answer the route."""
        self._changes.setdefault(route, []).append((moment, frozenset(versions)))

    def during(self, route: str, began: float, ended: float) -> frozenset[int]:
        """All that were allowed at any moment of a request: it may have been routed at each."""
        changes = self._changes.get(route, [])
        before = [versions for moment, versions in changes if moment <= began][-1:]
        return frozenset().union(*before, *(versions for moment, versions in changes if began < moment <= ended))


@dataclass(frozen=True)
class Phase:
    is_reloading: bool
    began: float
    ended: float


@dataclass(frozen=True)
class Figures:
    answers: int
    failed: int
    misrouted: int
    p50_ms: float
    p99_ms: float
    # Loading keeps a worker process busy for moments that a p99 of a minute may not show.
    p999_ms: float


def fault(answer: Answer, allowed: Allowed) -> str:
    """Empty: it is as it should be."""
    versions = allowed.during(answer.route, answer.began, answer.ended)
    if answer.status == 503 and answer.route in allowed.gaps and len(versions) > 1:
        return ""
    if answer.status != 200:
        return f"{answer.route}: {answer.status or 'no answer'}: {answer.problem}"
    if answer.version in versions:
        return ""
    return f"{answer.route}: answered by version {answer.version}, expected {' or '.join(map(str, sorted(versions)))}"


def figures(answers: Sequence[Answer], phases: Sequence[Phase], allowed: Allowed, is_reloading: bool) -> Figures:
    """Of the answers that were asked for in such phases."""
    chosen = [phase for phase in phases if phase.is_reloading == is_reloading]
    mine = [answer for answer in answers if any(phase.began <= answer.began < phase.ended for phase in chosen)]
    failed = sum(answer.status != 200 for answer in mine)
    # Where some failed, they weigh on the percentiles as long as they took.
    milliseconds = [(answer.ended - answer.began) * 1e3 for answer in mine]
    if len(milliseconds) < 100:
        raise RuntimeError(f"only {len(milliseconds)} answers: too few for percentiles")
    cuts = statistics.quantiles(milliseconds, n=1000, method="inclusive")
    return Figures(
        answers=len(mine),
        failed=failed,
        misrouted=sum(bool(fault(answer, allowed)) for answer in mine) - failed,
        p50_ms=cuts[499],
        p99_ms=cuts[989],
        p999_ms=cuts[998],
    )
