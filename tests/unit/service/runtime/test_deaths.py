"""Threads of the tests stand in for worker processes."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import pytest

from service.engines.base import Engine
from service.lifecycle.version_records import Deadly, VersionRecords
from service.runtime.deaths import FRESH_SECONDS, METRIC, SUSPECT, Deaths, Ending, OomKills
from service.runtime.shared_memory import FIRST_PROCESS, Areas, Kind, SharedMemory, series_key
from service.tensors.signature import DEFAULT_SIGNATURE
from tests.unit.service.fakes import Arrays, FakeEngine, any_shape, echo, signature

SIGNATURES = {DEFAULT_SIGNATURE: signature({"x": any_shape("DT_FLOAT")})}
# In a thread that Python does not know.
CRASH = "Fatal Python error: Aborted\n\nThread 0x1 (most recent call first):\n"
ABORTED = Ending(signal=signal.SIGABRT, crash=CRASH)
KILLED = Ending(signal=signal.SIGKILL)
FILES = 7
DEADLINE = 10


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
    """`kills`: processes that the kernel has killed for want of memory."""

    memory: SharedMemory = field(default_factory=SharedMemory)
    kills: int = 0
    now: float = 0.0

    def __post_init__(self) -> None:
        self.deaths = Deaths(self.memory, OomKills(lambda: self.kills, lambda: self.now))

    def worker(self, slot: int = 0) -> VersionRecords:
        return VersionRecords(self.memory, slot)

    def dies(self, ending: Ending = ABORTED, slot: int = 0) -> None:
        self.deaths.worker_ended(slot, ending)

    def dies_loading(self, model: str, ending: Ending = ABORTED) -> None:
        with self.worker().loading(model, 1, FILES):
            self.dies(ending)

    def dies_running(self, *engines: Engine) -> None:
        with running(*engines):
            self.dies()

    def is_ended(self, model: str, version: int = 1, files: int = FILES) -> bool:
        try:
            with self.worker(9).loading(model, version, files):
                return False
        except Deadly:
            return True

    def ended(self, *models: str) -> list[str]:
        return [model for model in models if self.is_ended(model)]

    def counted(self, model: str) -> float:
        area = Areas(self.memory, Kind.COUNT).take(FIRST_PROCESS, series_key(METRIC, (model, "1")), 8)
        return self.memory.doubles_of(area)[0]


@pytest.fixture
def service() -> Service:
    return Service()


def loaded(worker: VersionRecords, model: str, *, has_run: bool = True) -> Engine:
    with worker.loading(model, 1, FILES):
        marked = worker.marked(FakeEngine(SIGNATURES, echo))
    if has_run:
        marked.run(DEFAULT_SIGNATURE, {"x": None})  # type: ignore[dict-item]
    return marked


@contextmanager
def running(*engines: Engine) -> Iterator[list[int]]:
    """All at the same time, each in a thread of its own; their threads."""
    with ExitStack() as stack:
        threads = []
        for engine in engines:
            began, over = threading.Event(), threading.Event()
            engine._engine.answer = partial(held, began, over)  # type: ignore[attr-defined]
            run = partial(engine.run, DEFAULT_SIGNATURE, {})
            threads.append(stack.enter_context(in_thread(run, over)))
            began.wait()
        yield threads


@contextmanager
def loading(worker: VersionRecords, model: str) -> Iterator[threading.Event]:
    """In a thread of its own; whether it has begun."""
    began, over = threading.Event(), threading.Event()

    def load() -> None:
        with worker.loading(model, 1, FILES):
            held(began, over)

    with in_thread(load, over):
        yield began


def held(began: threading.Event, over: threading.Event, _inputs: Arrays | None = None) -> None:
    """It never finishes."""
    began.set()
    over.wait()
    raise InterruptedError


@contextmanager
def in_thread(work: Callable[[], object], over: threading.Event) -> Iterator[int]:
    def run() -> None:
        with suppress(InterruptedError):
            work()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield thread.ident or 0
    over.set()
    thread.join(DEADLINE)


def test_two_deaths_while_loading_end_a_version(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        assert not service.is_ended("bad")
        service.dies_loading("bad")
    assert service.is_ended("bad")
    assert not service.is_ended("bad", files=8), "its files have changed"
    assert not service.is_ended("bad", version=2)
    assert service.counted("bad") == 2
    died = "a worker process died of bad version 1 (SIGABRT)"
    errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == [died, died, "bad version 1 is ended: 2 worker processes died of it"]


def test_two_deaths_while_running_end_a_version(service: Service) -> None:
    engines = [loaded(service.worker(slot), "bad") for slot in range(3)]
    for slot in range(2):
        with running(engines[slot]):
            service.dies(slot=slot)
    with pytest.raises(Deadly, match="2 worker processes died of it"):
        engines[2].run(DEFAULT_SIGNATURE, {})


def test_crashed_thread_names_the_version(service: Service) -> None:
    worker = service.worker()
    engines = [loaded(worker, model) for model in ("busy", "bad", "other")]
    for _ in range(2):
        with running(*engines) as threads:
            service.dies(crash_of(threads[1]))
    assert service.ended("busy", "bad", "other") == ["bad"]
    assert service.counted("busy") == 0


def test_crash_outside_of_versions_is_logged(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    engine = loaded(service.worker(), "busy")
    for _ in range(3):
        with running(engine):
            service.dies(crash_of(threading.get_ident()))
    assert not service.is_ended("busy")
    (told,) = {record.message for record in caplog.records}
    assert told.splitlines()[1:] == ['  File "litert.py", line 20 in run', '  File "health.py", line 66 in run']


def test_crash_in_the_warm_up(service: Service) -> None:
    worker = service.worker()

    def crash(_inputs: Arrays) -> Arrays:
        service.dies(crash_of(threading.get_ident()))
        return {}

    for _ in range(2):
        with worker.loading("bad", 1, FILES):
            worker.marked(FakeEngine(SIGNATURES, crash)).run(DEFAULT_SIGNATURE, {})  # type: ignore[arg-type]
    assert service.is_ended("bad")


def test_loading_versions_are_suspected_before_running_ones(service: Service) -> None:
    worker = service.worker()
    with running(loaded(worker, "busy")):
        for _ in range(2):
            with worker.loading("bad", 1, FILES):
                service.dies()
    assert service.ended("bad", "busy") == ["bad"]


def test_suspects_are_loaded_one_at_a_time(service: Service) -> None:
    worker = service.worker()
    with ExitStack() as stack:
        for model in ("a", "bad", "c"):
            assert stack.enter_context(loading(worker, model)).wait(DEADLINE)
        service.dies()
    assert service.counted("a") == pytest.approx(1 / 3)
    worker = service.worker()
    with loading(worker, "new") as new_one, ExitStack() as first:
        assert first.enter_context(loading(worker, "a")).wait(DEADLINE)
        with loading(worker, "bad") as suspect:
            assert new_one.wait(DEADLINE)
            assert not suspect.wait(0.05), "both are suspects"
            first.close()
            assert suspect.wait(DEADLINE)
    for _ in range(2):
        worker = service.worker()
        with loading(worker, "bad") as bad, loading(worker, "new") as new_one:
            assert bad.wait(DEADLINE)
            assert new_one.wait(DEADLINE)
            service.dies()
    assert service.ended("a", "bad", "c", "new") == ["bad"]
    records = Areas(service.memory, Kind.VERSION)
    records.refresh()
    assert not any(service.memory.words_of(record)[SUSPECT] for record in records.found.values())


def test_versions_that_never_finished_a_run_are_suspected_first(service: Service) -> None:
    worker = service.worker()
    engines = loaded(worker, "busy"), loaded(worker, "bad", has_run=False)
    for _ in range(2):
        service.dies_running(*engines)
    assert service.ended("bad", "busy") == ["bad"]


def test_busy_neighbour_is_not_ended(service: Service) -> None:
    worker = service.worker()
    busy, bad, third = (loaded(worker, model) for model in ("busy", "bad", "third"))
    for engines in ((busy, bad), (bad,), (busy, bad)):
        assert not service.is_ended("bad")
        service.dies_running(*engines)
    assert service.ended("bad", "busy") == ["bad"]
    # What it was suspected of is forgotten.
    for _ in range(2):
        service.dies_running(busy, third)
    assert not service.is_ended("busy")


def test_of_two_inseparable_suspects_the_later_is_ended(service: Service) -> None:
    worker = service.worker()
    engines = [loaded(worker, model) for model in ("old", "new")]
    for _ in range(4):
        assert not service.is_ended("new")
        service.dies_running(*engines)
    assert service.ended("old", "new") == ["new"]


@pytest.mark.parametrize(
    ("ending", "blames"),
    [
        *((ending, True) for ending in (Ending(code=0), Ending(code=1), Ending(crash=CRASH))),
        # It hung.
        (Ending(signal=signal.SIGABRT, crash=CRASH, is_aborted=True), False),
        *((Ending(signal=number), False) for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, None)),
    ],
)
def test_ending_blames_the_version(service: Service, ending: Ending, blames: bool) -> None:
    for _ in range(2):
        service.dies_loading("model", ending)
    assert service.is_ended("model") is blames


def test_worker_that_is_idle_or_ends_in_order_blames_no_version(service: Service) -> None:
    with running(loaded(service.worker(), "idle")):
        pass
    for _ in range(2):
        service.dies()
        service.dies(slot=3)
        worker = service.worker()
        with worker.loading("busy", 1, FILES):
            worker.end_in_order()
            service.dies(Ending(code=1))
    assert service.ended("idle", "busy") == []


def test_oom_kills_blame_the_version_once_each(service: Service) -> None:
    service.kills += 1
    for _ in range(3):
        service.dies_loading("bad", KILLED)
    assert service.counted("bad") == 1
    service.kills += 1
    service.dies_loading("bad", KILLED)
    assert service.is_ended("bad")


@pytest.mark.parametrize(("seconds", "deaths"), [(1, 1), (FRESH_SECONDS + 1, 0)], ids=["just before", "long before"])
def test_oom_kill_is_seen_before_the_death(service: Service, seconds: float, deaths: int) -> None:
    service.kills += 1
    service.deaths.poll()
    service.now += seconds
    service.deaths.poll()
    service.dies_loading("model", KILLED)
    assert service.counted("model") == deaths
    assert not OomKills(lambda: None).claim(), "there is no counter"


def test_pardon_clears_a_version(service: Service) -> None:
    service.dies_loading("bad")
    service.worker(5).pardon("bad")
    service.dies_loading("bad")
    assert not service.is_ended("bad")
    service.dies_loading("bad")
    assert service.is_ended("bad")
    service.worker(5).pardon("other")
    assert service.is_ended("bad")
    service.worker(5).pardon("bad")
    service.dies_loading("bad")
    assert not service.is_ended("bad")
