"""Threads of the tests stand in for worker processes."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import pytest

from service.engines.base import Engine
from service.lifecycle.version_records import Deadly, VersionRecords
from service.runtime.deaths import FRESH_SECONDS, METRIC, SUSPECT, Deaths, Ending, OomKills
from service.runtime.shared_memory import FIRST_PROCESS, Areas, Kind, SharedMemory, series_key
from service.tensors.signature import DEFAULT_SIGNATURE
from tests.unit.service.fakes import Arrays, FakeEngine, any_shape, echo, signature

SIGNATURES = {DEFAULT_SIGNATURE: signature({"x": any_shape("DT_FLOAT")})}
# In a thread that Python does not know.
ABORTED = Ending(signal=signal.SIGABRT, crash="Fatal Python error: Aborted\n\nThread 0x1 (most recent call first):\n")
KILLED = Ending(signal=signal.SIGKILL)
FILES = 7


def crash_of(thread: int) -> Ending:
    crash = (
        f"Fatal Python error: Segmentation fault\n\nCurrent thread 0x{thread:016x} (most recent call first):\n"
        '  File "litert.py", line 20 in run\n  File "health.py", line 66 in run\n\n'
        "Thread 0x1 (most recent call first):\n"
        '  File "threading.py", line 320 in wait\n'
    )
    return Ending(signal=signal.SIGSEGV, crash=crash)


@dataclass
class Service:
    """`kills`: how many processes the kernel has killed for want of memory."""

    memory: SharedMemory = field(default_factory=SharedMemory)
    kills: int = 0
    now: float = 0.0

    def __post_init__(self) -> None:
        self.deaths = Deaths(self.memory, OomKills(lambda: self.kills, lambda: self.now))

    def worker(self, slot: int = 0) -> VersionRecords:
        return VersionRecords(self.memory, slot)

    def dies(self, ending: Ending, slot: int = 0) -> None:
        self.deaths.worker_ended(slot, ending)

    def is_ended(self, model: str, version: int = 1, files: int = FILES) -> bool:
        try:
            with self.worker(9).loading(model, version, files):
                return False
        except Deadly:
            return True

    def counted(self, model: str) -> float:
        area = Areas(self.memory, Kind.COUNT).take(FIRST_PROCESS, series_key(METRIC, (model, "1")), 8)
        return self.memory.doubles_of(area)[0]


@pytest.fixture
def service() -> Service:
    return Service()


def loaded(
    worker: VersionRecords, model: str, answer: Callable[[Arrays], Arrays] = echo, *, has_run: bool = True
) -> Engine:
    engine = FakeEngine(SIGNATURES, echo)
    with worker.loading(model, 1, FILES):
        marked = worker.marked(engine)
    if has_run:
        marked.run(DEFAULT_SIGNATURE, {"x": None})  # type: ignore[dict-item]
    engine.answer = answer  # type: ignore[assignment]
    return marked


@contextmanager
def running(*engines: Engine) -> Iterator[list[int]]:
    """All at the same time, each in a thread of its own; their threads."""
    with ExitStack() as stack:
        yield [stack.enter_context(running_one(engine)) for engine in engines]


@contextmanager
def running_one(engine: Engine) -> Iterator[int]:
    began, over = threading.Event(), threading.Event()

    def wait(_inputs: Arrays) -> Arrays:
        began.set()
        over.wait()
        raise InterruptedError

    def run() -> None:
        with suppress(InterruptedError):
            engine.run(DEFAULT_SIGNATURE, {})

    engine._engine.answer = wait  # type: ignore[attr-defined]
    thread = threading.Thread(target=run)
    thread.start()
    began.wait()
    yield thread.ident or 0
    over.set()
    thread.join()


def test_two_deaths_while_loading_end_a_version(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        assert not service.is_ended("bad")
        with service.worker().loading("bad", 1, FILES):
            service.dies(ABORTED)
    assert service.is_ended("bad")
    assert not service.is_ended("bad", files=8), "its files have changed"
    assert not service.is_ended("bad", version=2)
    assert service.counted("bad") == 2
    errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == [
        "a worker process died of bad version 1 (SIGABRT)",
        "a worker process died of bad version 1 (SIGABRT)",
        "bad version 1 is ended: 2 worker processes died of it",
    ]


def test_two_deaths_while_running_end_a_version(service: Service) -> None:
    engines = [loaded(service.worker(slot), "bad") for slot in range(3)]
    for slot in range(2):
        with running(engines[slot]):
            service.dies(ABORTED, slot)
    with pytest.raises(Deadly, match="2 worker processes died of it"):
        engines[2].run(DEFAULT_SIGNATURE, {})


def test_the_crashed_thread_names_the_version(service: Service) -> None:
    worker = service.worker()
    engines = [loaded(worker, model) for model in ("busy", "bad", "other")]
    for _ in range(2):
        with running(*engines) as threads:
            service.dies(crash_of(threads[1]))
    assert [service.is_ended(model) for model in ("busy", "bad", "other")] == [False, True, False]
    assert service.counted("busy") == 0


def test_a_crash_outside_of_versions_is_logged(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    engine = loaded(service.worker(), "busy")
    for _ in range(3):
        with running(engine):
            service.dies(crash_of(threading.get_ident()))
    assert not service.is_ended("busy")
    (told,) = {record.message for record in caplog.records}
    assert told.splitlines()[1:] == ['  File "litert.py", line 20 in run', '  File "health.py", line 66 in run']


def test_loading_versions_are_suspected_before_running_ones(service: Service) -> None:
    worker = service.worker()
    with running(loaded(worker, "busy")):
        for _ in range(2):
            with worker.loading("bad", 1, FILES):
                service.dies(ABORTED)
    assert (service.is_ended("bad"), service.is_ended("busy")) == (True, False)


def test_a_crash_in_the_warm_up(service: Service) -> None:
    worker = service.worker()

    def crash(_inputs: Arrays) -> Arrays:
        service.dies(crash_of(threading.get_ident()))
        return {}

    for _ in range(2):
        with worker.loading("bad", 1, FILES):
            worker.marked(FakeEngine(SIGNATURES, crash)).run(DEFAULT_SIGNATURE, {})  # type: ignore[arg-type]
    assert service.is_ended("bad")


@contextmanager
def loading(worker: VersionRecords, model: str) -> Iterator[threading.Event]:
    """In a thread of its own; whether it has begun."""
    began, over = threading.Event(), threading.Event()

    def load() -> None:
        with worker.loading(model, 1, FILES):
            began.set()
            over.wait()

    thread = threading.Thread(target=load)
    thread.start()
    yield began
    over.set()
    thread.join()


def test_suspects_are_loaded_one_at_a_time(service: Service) -> None:
    worker = service.worker()
    models = ["a", "bad", "c"]
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(loading(worker, model)).wait()
        service.dies(ABORTED)
    assert service.counted("a") == pytest.approx(1 / 3)
    worker = service.worker()
    with loading(worker, "new") as new_one, ExitStack() as first:
        first.enter_context(loading(worker, "a")).wait()
        with loading(worker, "bad") as suspect:
            new_one.wait()
            assert not suspect.wait(0.05), "both are suspects"
            first.close()
            suspect.wait()
    for _ in range(2):
        worker = service.worker()
        with loading(worker, "bad") as bad, loading(worker, "new") as new_one:
            bad.wait()
            new_one.wait()
            service.dies(ABORTED)
    assert [service.is_ended(model) for model in (*models, "new")] == [False, True, False, False]
    assert not any(area_words(service, model)[SUSPECT] for model in models)


def area_words(service: Service, model: str) -> "memoryview[int]":
    return service.worker(8)._record(model, 1, FILES).words


def test_versions_that_never_finished_a_run_are_suspected_first(service: Service) -> None:
    worker = service.worker()
    busy, bad = loaded(worker, "busy"), loaded(worker, "bad", has_run=False)
    for _ in range(2):
        with running(busy, bad):
            service.dies(ABORTED)
    assert (service.is_ended("bad"), service.is_ended("busy")) == (True, False)


def test_a_busy_neighbour_is_not_ended(service: Service) -> None:
    worker = service.worker()
    busy, bad = loaded(worker, "busy"), loaded(worker, "bad")
    for engines in ((busy, bad), (bad,), (busy, bad)):
        assert not service.is_ended("bad")
        with running(*engines):
            service.dies(ABORTED)
    assert (service.is_ended("bad"), service.is_ended("busy")) == (True, False)
    # What it was suspected of is forgotten.
    third = loaded(worker, "third")
    for _ in range(2):
        with running(busy, third):
            service.dies(ABORTED)
    assert not service.is_ended("busy")


def test_of_two_inseparable_suspects_the_later_is_ended(service: Service) -> None:
    worker = service.worker()
    engines = [loaded(worker, model) for model in ("old", "new")]
    for _ in range(4):
        assert not service.is_ended("new")
        with running(*engines):
            service.dies(ABORTED)
    assert (service.is_ended("old"), service.is_ended("new")) == (False, True)


@pytest.mark.parametrize(
    "ending",
    [
        KILLED,
        Ending(signal=signal.SIGTERM),
        Ending(signal=signal.SIGINT),
        Ending(signal=signal.SIGABRT, crash=ABORTED.crash, is_aborted=True),
        Ending(),
    ],
)
def test_killed_workers_blame_no_version(service: Service, ending: Ending) -> None:
    for _ in range(3):
        with service.worker().loading("busy", 1, FILES):
            service.dies(ending)
    assert not service.is_ended("busy")


def test_a_worker_that_ends_in_order_blames_no_version(service: Service) -> None:
    for _ in range(3):
        worker = service.worker()
        with worker.loading("busy", 1, FILES):
            worker.end_in_order()
            service.dies(Ending(code=1))
    assert not service.is_ended("busy")


@pytest.mark.parametrize("code", [0, 1])
def test_an_exit_code_blames_the_version(service: Service, code: int) -> None:
    for _ in range(2):
        with service.worker().loading("bad", 1, FILES):
            service.dies(Ending(code=code))
    assert service.is_ended("bad")


def test_a_crash_report_alone_blames_the_version(service: Service) -> None:
    for _ in range(2):
        with service.worker().loading("bad", 1, FILES):
            service.dies(Ending(crash=ABORTED.crash))
    assert service.is_ended("bad")


def test_oom_kills_blame_the_version(service: Service) -> None:
    for _ in range(2):
        with service.worker().loading("bad", 1, FILES):
            service.kills += 1
            service.dies(KILLED)
    assert service.is_ended("bad")


def test_an_oom_kill_counts_once(service: Service) -> None:
    service.kills += 1
    for _ in range(3):
        with service.worker().loading("busy", 1, FILES):
            service.dies(KILLED)
    assert service.counted("busy") == 1


def test_an_old_oom_kill_was_of_another_process(service: Service) -> None:
    service.kills += 5
    service.deaths.poll()
    service.now += FRESH_SECONDS + 1
    service.deaths.poll()
    with service.worker().loading("busy", 1, FILES):
        service.dies(KILLED)
    assert service.counted("busy") == 0


def test_an_oom_kill_may_be_seen_before_the_death(service: Service) -> None:
    service.kills += 1
    service.deaths.poll()
    service.now += 1
    service.deaths.poll()
    with service.worker().loading("bad", 1, FILES):
        service.dies(KILLED)
    assert service.counted("bad") == 1


def test_without_a_counter_there_are_no_oom_kills() -> None:
    assert not OomKills(lambda: None).claim()


def test_a_pardon_clears_a_version(service: Service) -> None:
    def die() -> None:
        with service.worker().loading("bad", 1, FILES):
            service.dies(ABORTED)

    die()
    service.worker(5).pardon("bad")
    die()
    assert not service.is_ended("bad")
    die()
    assert service.is_ended("bad")
    service.worker(5).pardon("other")
    assert service.is_ended("bad")
    service.worker(5).pardon("bad")
    assert not service.is_ended("bad")
    die()
    assert not service.is_ended("bad")


def test_an_idle_worker_blames_no_version(service: Service) -> None:
    engine = loaded(service.worker(), "idle")
    with running(engine):
        pass
    for _ in range(2):
        service.dies(ABORTED)
        service.dies(ABORTED, slot=3)
    assert not service.is_ended("idle")
