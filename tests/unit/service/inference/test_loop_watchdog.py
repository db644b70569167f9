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
        self.watchdog = LoopWatchdog(self.slow.append, self._end)

    def _end(self) -> None:
        self.ends += 1

    def run(self) -> None:
        self.watchdog.running = Prediction(
            LOADED, "serving_default", {}, lambda _: Response(200, b""), RequestContext()
        )

    def poll(self, times: int) -> None:
        for _ in range(times):
            self.watchdog.poll()


@pytest.fixture
def at() -> Watched:
    return Watched()


def test_long_run_leaves_the_loop_and_a_hanging_one_ends_the_process(
    at: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    at.run()
    at.poll(POLLS_UNTIL_SLOW)
    assert at.slow == []
    at.poll(1)
    assert at.slow == [LOADED]
    at.poll(POLLS_UNTIL_HANGING - POLLS_UNTIL_SLOW - 1)
    assert at.ends == 0
    at.poll(1)
    assert (at.slow, at.ends) == ([LOADED], 1)
    warning, critical = caplog.records
    assert (warning.levelno, critical.levelno) == (logging.WARNING, logging.CRITICAL)
    assert warning.getMessage().startswith("model version 1 has held up everybody for a second; from now on threads")
    assert critical.getMessage().startswith("model version 1 has held up everybody for 5 s and cannot be stopped")


def test_many_short_runs_are_no_long_one(at: Watched) -> None:
    for _ in range(2 * POLLS_UNTIL_HANGING):
        at.run()
        at.poll(POLLS_UNTIL_SLOW)
    assert (at.slow, at.ends) == ([], 0)


def test_idle_loop_is_left_alone(at: Watched) -> None:
    at.run()
    at.poll(POLLS_UNTIL_SLOW)
    at.watchdog.running = None
    at.poll(2 * POLLS_UNTIL_HANGING)
    assert (at.slow, at.ends) == ([], 0)
    # It must not keep a version that is unloaded.
    assert at.watchdog._seen is None
