import faulthandler
import os
import signal
import time
from dataclasses import dataclass, field
from math import inf
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.workers.base import Worker

from service.runtime.deaths import Ending
from service.runtime.shared_memory import SharedMemory
from service.server.arbiter import Heartbeat, ServiceArbiter, _ending
from service.server.worker import LoopWorker
from tests.unit.service.forked import Forked


@dataclass
class FakeApp:
    memory: SharedMemory = field(default_factory=SharedMemory)
    cfg: Any = field(default_factory=Config)


def wait_until_ended(child: Forked) -> None:
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)


def abort() -> None:
    # pytest's own would report it.
    faulthandler.disable()
    os.abort()


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda _go: os._exit(3), Ending(code=3)),
        (lambda _go: os.kill(os.getpid(), signal.SIGKILL), Ending(signal=signal.SIGKILL)),
        (lambda _go: abort(), Ending(signal=signal.SIGABRT)),
    ],
)
def test_ending_of_a_worker_is_read_and_left_to_gunicorn(work: Any, expected: Ending) -> None:
    child = Forked(work)
    wait_until_ended(child)
    assert _ending(child.pid) == expected
    assert child.join() != 0


def test_ending_is_unknown_before_and_after() -> None:
    child = Forked(lambda _go: signal.pause())
    assert _ending(child.pid) == Ending()
    child.kill()
    assert _ending(child.pid) == Ending()


def test_worker_has_all_attributes_of_gunicorns() -> None:
    arguments: Any = (1, os.getpid(), [], FakeApp(), 60.0, Config(), None)
    expected, found = Worker(*arguments), LoopWorker(*arguments)
    assert vars(expected).keys() == vars(found).keys() - {"slot", "ending"}
    different = {name for name, value in vars(expected).items() if value != getattr(found, name)}
    assert different <= {"tmp", "app"}
    for name in ("notify", "last_update", "fileno", "close"):
        assert callable(getattr(found.tmp, name))
    for worker in (expected, found):
        worker.tmp.close()


def test_heartbeat() -> None:
    memory = SharedMemory()
    heartbeat = Heartbeat(memory, 2)
    assert heartbeat.last_update() == inf
    assert Forked(lambda _go: heartbeat.notify()).join() == 0
    assert 0 <= time.monotonic() - heartbeat.last_update() < 60
    heartbeat.close()


def test_crash_report_is_read_by_the_first_process() -> None:
    heartbeat = Heartbeat(SharedMemory(), 0)
    assert Forked(lambda _go: os.write(heartbeat.fileno(), b"Fatal Python error")).join() == 0
    # Another worker that begins has no need of the file.
    assert Forked(lambda _go: heartbeat.close()).join() == 0
    heartbeat.close()
    assert heartbeat.crash == "Fatal Python error"
    heartbeat.close()


def test_slot_of_an_ended_worker_is_taken_by_the_next() -> None:
    app = FakeApp()
    arbiter = ServiceArbiter.__new__(ServiceArbiter)
    arbiter._memory, ended = app.memory, []
    arbiter._deaths = type("FakeDeaths", (), {"worker_ended": lambda _self, *ending: ended.append(ending)})()
    workers = [LoopWorker(age, os.getpid(), [], app, 60.0, Config(), None) for age in (1, 2)]
    assert [worker.slot for worker in workers] == [0, 1]
    app.memory.enter(0)
    workers[0].ending, workers[0].aborted = Ending(signal=signal.SIGABRT), True
    for worker in workers:
        worker.tmp.close()
    arbiter.worker_ended(workers[0])
    assert ended == [(0, Ending(signal=signal.SIGABRT, is_aborted=True))]
    assert app.memory.pid(0) == 0
    assert LoopWorker(3, os.getpid(), [], app, 60.0, Config(), None).slot == 0
