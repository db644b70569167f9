"""What the figures should be: the targets of the work on speed, as ratios within one run."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.hundred_models import FURTHER

# The median of a figure: of a scenario, a server, by its name in measure.Figures; None where it was not measured.
Median = Callable[[str, str, str], float | None]


@dataclass(frozen=True)
class Figure:
    scenario: str
    server: str
    name: str


@dataclass(frozen=True)
class Target:
    """`of` ÷ `to`, or `of` − `less` for each of `per`, or `of` itself: at most `limit`, or at least where `at_least`
    is set."""

    text: str
    of: Figure
    limit: float
    to: Figure | None = None
    less: Figure | None = None
    per: int = 1
    at_least: bool = False
    # What to aim at, beyond the limit.
    aim: float | None = None

    @property
    def figures(self) -> list[Figure]:
        return [figure for figure in (self.of, self.to, self.less) if figure]


@dataclass(frozen=True)
class Verdict:
    target: Target
    value: float | None

    @property
    def word(self) -> str:
        if self.value is None:
            return "not measured"
        aim = self.target.limit if self.target.aim is None else self.target.aim
        for limit, word in ((aim, "reached"), (self.target.limit, "reached, short of the aim")):
            if self.value >= limit if self.target.at_least else self.value <= limit:
                return word
        return "missed"


OURS, HELLO, FASTAPI, IN_PROCESS = "fitting_room", "gunicorn_hello", "fastapi_tensorflow", "in_process"
MANY, FEW = "fitting_room_100_models", "fitting_room_2_models"
PEERS = {"mlserver_tensorflow": "MLServer", "bentoml_tensorflow": "BentoML"}


def versus(text: str, scenario: str, name: str, to: str, limit: float, **more: float | bool | None) -> Target:
    """Ours against a server in the same table."""
    ours = "fitting_room_tensorflow" if scenario == "tensorflow_engine" else OURS
    return Target(text, Figure(scenario, ours, name), limit, to=Figure(scenario, to, name), **more)  # type: ignore[arg-type]


TARGETS = (
    versus("CPU a request ÷ (a)", "one_picture", "cpu_us", HELLO, 0.45, aim=0.3),
    versus("CPU a request ÷ (a), each held to a core", "one_picture_held", "cpu_us", HELLO, 0.45, aim=0.3),
    versus("CPU a request ÷ (c)", "one_picture", "cpu_us", FASTAPI, 1 / 5, aim=1 / 7),
    *(
        versus(f"CPU a request ÷ {name}", "one_picture", "cpu_us", key, 1 / 8, aim=1 / 10)
        for key, name in PEERS.items()
    ),
    versus("requests/s ÷ (c)", "two_workers", "requests_per_second", FASTAPI, 3, at_least=True),
    *(
        versus(f"requests/s ÷ {name}", "two_workers", "requests_per_second", key, 8, at_least=True)
        for key, name in PEERS.items()
    ),
    Target(
        "requests/s for each core that the load left, ÷ one worker's (0.9: twice the cores give 1.8 ×)",
        Figure("two_workers", OURS, "requests_per_free_core"),
        0.9,
        to=Figure("one_picture_held", OURS, "requests_per_free_core"),
        at_least=True,
    ),
    Target(
        "p50 ÷ p50 of (a) at 16 connections",
        Figure("one_connection", OURS, "p50_ms"),
        0.4,
        to=Figure("one_picture", HELLO, "p50_ms"),
    ),
    Target(
        "p99 ÷ its own p50",
        Figure("one_connection", OURS, "p99_ms"),
        5,
        to=Figure("one_connection", OURS, "p50_ms"),
    ),
    versus("pictures/s ÷ LiteRT in process", "batch_json", "pictures_per_second", IN_PROCESS, 0.25, at_least=True),
    Target(
        "pictures/s ÷ one worker's",
        Figure("batch_json_two_workers", OURS, "pictures_per_second"),
        1.5,
        to=Figure("batch_json_unheld", OURS, "pictures_per_second"),
        at_least=True,
    ),
    versus("pictures/s ÷ LiteRT in process", "batch_binary", "pictures_per_second", IN_PROCESS, 0.7, at_least=True),
    versus("CPU a picture ÷ in process", "png", "cpu_us", IN_PROCESS, 1.3),
    versus("CPU a picture ÷ in process", "jpeg", "cpu_us", IN_PROCESS, 1.5),
    Target("seconds to the first prediction", Figure("start", OURS, "start_seconds"), 0.7),
    Target("PSS of one worker, MB", Figure("start", OURS, "pss_mb"), 90),
    Target(
        "PSS of one more worker, MB",
        Figure("start_two_workers", OURS, "pss_mb"),
        45,
        less=Figure("start", OURS, "pss_mb"),
    ),
    Target(
        "seconds to the first prediction by TensorFlow",
        Figure("start", "fitting_room_tensorflow", "start_seconds"),
        1.5,
    ),
    Target(
        "PSS of each model more, MB",
        Figure("many_models_start", MANY, "pss_mb"),
        1,
        less=Figure("many_models_start", FEW, "pss_mb"),
        per=FURTHER,
    ),
    Target(
        "p50 of one model's requests ÷ without the others (1.1: no more than the noise)",
        Figure("many_models", MANY, "p50_ms"),
        1.1,
        to=Figure("many_models", FEW, "p50_ms"),
    ),
    versus("CPU a request ÷ (c)", "tensorflow_engine", "cpu_us", FASTAPI, 1 / 3),
    Target(
        "requests/s ÷ batching off",
        Figure("cnn", "fitting_room_cnn", "requests_per_second"),
        1.5,
        to=Figure("cnn", "fitting_room_cnn_unbatched", "requests_per_second"),
        at_least=True,
    ),
    Target(
        "p50 ÷ batching off (1.1: no more than the noise)",
        Figure("cnn_one_connection", "fitting_room_cnn", "p50_ms"),
        1.1,
        to=Figure("cnn_one_connection", "fitting_room_cnn_unbatched", "p50_ms"),
    ),
    Target(
        "CPU a KB ÷ that of a 16 KB body",
        Figure("body_1_mb", OURS, "cpu_us_per_kb"),
        1.2,
        to=Figure("body_16_kb", OURS, "cpu_us_per_kb"),
    ),
)


def verdict(target: Target, median: Median) -> Verdict:
    def value(figure: Figure | None) -> float | None:
        return median(figure.scenario, figure.server, figure.name) if figure else None

    of, other = value(target.of), value(target.to or target.less)
    if of is None or (other is None and (target.to or target.less)):
        return Verdict(target, None)
    if target.to:
        return Verdict(target, of / other if other else None)
    return Verdict(target, (of - (other or 0.0)) / target.per)
