import logging

import pytest

from service.http import Response
from service.inference.context import Prediction, RequestContext
from service.inference.loop_watchdog import POLLS_UNTIL_HANGING, POLLS_UNTIL_SLOW, LoopWatchdog
from service.inference.version import LoadedVersion
from tests.unit.service.fakes import loaded_version, signature, tensor

LOADED = loaded_version(signature({"x": tensor("DT_FLOAT", -1)}))


class Watched:
    def __init__(self) -> None:
        self.slow: list[LoadedVersion] = []
        self.ends = 0
        self.watch = LoopWatchdog(self.slow.append, self._end)

    def _end(self) -> None:
        self.ends += 1

    def poll(self, times: int) -> None:
        for _ in range(times):
            self.watch.poll()


@pytest.fixture
def watched() -> Watched:
    return Watched()


def prediction() -> Prediction:
    return Prediction(LOADED, "serving_default", {}, lambda _: Response(200, b""), RequestContext())


def test_a_run_that_lasts_is_told_once_and_in_the_end_ends_the_process(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.watch.running = prediction()
    watched.poll(POLLS_UNTIL_SLOW)
    assert watched.slow == []
    watched.poll(1)
    assert watched.slow == [LOADED]
    watched.poll(POLLS_UNTIL_HANGING - POLLS_UNTIL_SLOW - 1)
    assert watched.ends == 0
    watched.poll(1)
    assert (watched.slow, watched.ends) == ([LOADED], 1)
    warning, critical = caplog.records
    assert (warning.levelno, critical.levelno) == (logging.WARNING, logging.CRITICAL)
    assert warning.getMessage().startswith("model version 1 has held up everybody for a second; from now on threads")
    assert critical.getMessage().startswith("model version 1 has held up everybody for 5 s and cannot be stopped")


def test_many_short_runs_of_one_version_are_no_long_one(watched: Watched) -> None:
    for _ in range(2 * POLLS_UNTIL_HANGING):
        watched.watch.running = prediction()
        watched.poll(POLLS_UNTIL_SLOW)
    assert (watched.slow, watched.ends) == ([], 0)


def test_an_event_loop_that_runs_nothing_is_left_alone(watched: Watched) -> None:
    watched.watch.running = prediction()
    watched.poll(POLLS_UNTIL_SLOW)
    watched.watch.running = None
    watched.poll(2 * POLLS_UNTIL_HANGING)
    assert (watched.slow, watched.ends) == ([], 0)
    assert watched.watch._seen is None
