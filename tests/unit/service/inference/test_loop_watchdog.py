import logging

import pytest

from service.http import Response
from service.inference.context import Prediction, RequestContext
from service.inference.loop_watchdog import POLLS_UNTIL_HANGING, POLLS_UNTIL_SLOW, LoopWatchdog
from tests.unit.service.fakes import loaded_version, signature, tensor

LOADED = loaded_version(signature({"x": tensor("DT_FLOAT", -1)}))


class Watched:
    def __init__(self) -> None:
        # Versions that are slow, and None for the end of the process.
        self.events: list[object] = []
        self.watchdog = LoopWatchdog(self.events.append, lambda: self.events.append(None))

    def run(self) -> None:
        self.watchdog.running = Prediction(
            LOADED, "serving_default", {}, lambda _: Response(200, b""), RequestContext()
        )

    def poll(self, times: int) -> list[object]:
        for _ in range(times):
            self.watchdog.poll()
        return self.events


@pytest.fixture
def at() -> Watched:
    at = Watched()
    at.run()
    return at


def test_long_run_leaves_the_loop_and_a_hanging_one_ends_the_process(
    at: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    assert at.poll(POLLS_UNTIL_SLOW) == []
    assert at.poll(1) == [LOADED]
    assert at.poll(POLLS_UNTIL_HANGING - POLLS_UNTIL_SLOW - 1) == [LOADED]
    assert at.poll(1) == [LOADED, None]
    warning, critical = caplog.records
    assert (warning.levelno, critical.levelno) == (logging.WARNING, logging.CRITICAL)
    assert warning.getMessage().startswith("model version 1 has held up everybody for a second; from now on threads")
    assert critical.getMessage().startswith("model version 1 has held up everybody for 5 s and cannot be stopped")


def test_many_short_runs_and_an_idle_loop_are_left_alone(at: Watched) -> None:
    for _ in range(2 * POLLS_UNTIL_HANGING):
        at.run()
        at.poll(POLLS_UNTIL_SLOW)
    at.watchdog.running = None
    assert at.poll(2 * POLLS_UNTIL_HANGING) == []
    # It must not keep a version that is unloaded.
    assert at.watchdog._seen is None
