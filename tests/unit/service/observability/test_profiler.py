from typing import Any

import pytest

from service.api.routes import TABLE
from service.errors import Unavailable
from service.http import GRPC
from service.inference.context import RequestContext
from service.observability.profiler import MAX_REQUESTS, Profiler
from tests.unit.service.fakes import request

PREDICT = b"/tensorflow.serving.PredictionService/Predict"


def answer(profiler: Profiler, arrived: float, answered: float, path: bytes = PREDICT) -> RequestContext:
    sent = request(path, method=GRPC)
    sent.match = TABLE.find(GRPC, path)
    context = sent.context
    context.arrived, context.answered = arrived, answered
    profiler.answered(sent, 200)
    return context


def rows(space: dict[str, Any]) -> list[list[tuple[str, float]]]:
    """Name and duration in seconds of each event, by row."""
    (plane,) = space["planes"]
    names = {number: entry["name"] for number, entry in plane["event_metadata"].items()}
    return [
        [(names[event["metadata_id"]], round(event["duration_ps"] / 1e12, 6)) for event in line["events"]]
        for line in plane["lines"]
    ]


def test_a_profile_has_the_stages_of_its_requests() -> None:
    profiler = Profiler()

    def is_over() -> bool:
        context = answer(profiler, 1.0, 1.5)
        context.began, context.decoded_at, context.run_began, context.run_seconds = 1.1, 1.15, 1.2, 0.2
        context.inferred_at, context.ended = 1.4, 1.45
        return True

    answer(profiler, 0.0, 0.5)
    _, events = rows(profiler.take(60, "", is_over))
    assert events == [("grpc_v1 predict", 0.5), ("queue", 0.1), ("decode", 0.05), ("inference", 0.2), ("encode", 0.05)]
    assert [name for row in rows(profiler.take(1e-3, "", lambda: False)) for name, _ in row] == ["profile"]


def test_requests_at_the_same_time_have_rows_of_their_own() -> None:
    profiler = Profiler()

    def is_over() -> bool:
        for arrived, answered in ((1.0, 2.0), (1.5, 2.5), (2.0, 3.0)):
            answer(profiler, arrived, answered, b"/no")
        return True

    _, first, second = rows(profiler.take(60, "", is_over))
    assert (len(first), second) == (2, [("no route", 1.0)])


def test_a_profile_ends_once_it_is_terminated_or_full() -> None:
    profiler, sessions = Profiler(), iter(["other", "mine"])

    def is_over() -> bool:
        with pytest.raises(Unavailable):
            profiler.take(1, "other", lambda: True)
        if (session := next(sessions)) == "mine":
            for _ in range(MAX_REQUESTS + 1):
                answer(profiler, 1.0, 1.0)
        profiler.terminate(session)
        return False

    space = profiler.take(60, "mine", is_over)
    assert sum(map(len, rows(space)[1:])) == MAX_REQUESTS
    assert space["warnings"]
