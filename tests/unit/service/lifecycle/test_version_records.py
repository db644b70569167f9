import mmap
import threading
from collections.abc import Callable

import pytest

from service.errors import Unavailable
from service.lifecycle.version_records import Deadly, VersionRecords, is_deadly
from service.runtime.deaths import BEGAN, ENDED, LOADER, MAX_THREADS, SUSPECT, under_way
from service.runtime.shared_memory import MIN_CAPACITY, Areas, Kind, SharedMemory
from service.tensors.signature import DEFAULT_SIGNATURE
from tests.unit.service.fakes import Arrays, FakeEngine, any_shape, echo, signature
from tests.unit.service.forked import Forked

SIGNATURES = {DEFAULT_SIGNATURE: signature({"x": any_shape("DT_FLOAT")})}
FILES = 7


def marks(memory: SharedMemory, slot: int = 0) -> list[tuple[bool, bool]]:
    """Whether each marked thread is loading, and is running."""
    return [(bool(row.loading), bool(row.running)) for row in under_way(memory, Areas(memory, Kind.MARKS), slot)]


def test_loading_and_running_is_marked(memory: SharedMemory) -> None:
    records = VersionRecords(memory)
    during: list[list[tuple[bool, bool]]] = []

    def answer(inputs: Arrays) -> Arrays:
        during.append(marks(memory))
        return inputs

    with records.loading("model", 1, FILES):
        engine = records.marked(FakeEngine(SIGNATURES, answer))  # type: ignore[arg-type]
        during.append(marks(memory))
        engine.run(DEFAULT_SIGNATURE, {})
        during.append(marks(memory))
    during.append(marks(memory))
    engine.run(DEFAULT_SIGNATURE, {})
    during.append(marks(memory))
    loading, warm_up, running = [(True, False)], [(True, True)], [(False, True)]
    assert during == [loading, warm_up, loading, [], running, []]


def test_failure_removes_the_marks(memory: SharedMemory) -> None:
    records = VersionRecords(memory)

    def fail(_inputs: Arrays) -> Arrays:
        raise ValueError

    with pytest.raises(ValueError), records.loading("model", 1, FILES):  # noqa: PT011
        records.marked(FakeEngine(SIGNATURES, fail)).run(DEFAULT_SIGNATURE, {})  # type: ignore[arg-type]
    assert marks(memory) == []


def test_marks_of_ended_threads_are_reused(memory: SharedMemory) -> None:
    records = VersionRecords(memory)
    with records.loading("model", 1, FILES):
        engine = records.marked(FakeEngine(SIGNATURES, echo))
    for _ in range(2 * MAX_THREADS):
        thread = threading.Thread(target=engine.run, args=(DEFAULT_SIGNATURE, {"x": None}))
        thread.start()
        thread.join()
    with records.loading("model", 1, FILES):
        assert marks(memory) == [(True, False)]


def test_more_threads_than_marks(memory: SharedMemory) -> None:
    records = VersionRecords(memory)
    all_run, over = threading.Barrier(MAX_THREADS + 6), threading.Event()

    def answer(inputs: Arrays) -> Arrays:
        all_run.wait()
        over.wait()
        return inputs

    with records.loading("model", 1, FILES):
        engine = records.marked(FakeEngine(SIGNATURES, answer))  # type: ignore[arg-type]
    threads = [threading.Thread(target=engine.run, args=(DEFAULT_SIGNATURE, {})) for _ in range(MAX_THREADS + 5)]
    for thread in threads:
        thread.start()
    all_run.wait()
    # This thread has one too.
    assert len(marks(memory)) == MAX_THREADS - 1
    over.set()
    for thread in threads:
        thread.join()
    assert marks(memory) == []


def test_new_process_starts_without_marks(memory: SharedMemory) -> None:
    records = VersionRecords(memory)
    with records.loading("model", 1, FILES):
        records.end_in_order()
        assert marks(memory) == []
        VersionRecords(memory)
        assert marks(memory) == []


def test_engine_outside_a_load_is_not_marked() -> None:
    engine = FakeEngine(SIGNATURES, echo)
    assert VersionRecords().marked(engine) is engine


def test_marked_engine_delegates(memory: SharedMemory) -> None:
    records, engine = VersionRecords(memory), FakeEngine(SIGNATURES, echo, runs_on_caller=False)
    with records.loading("model", 1, FILES):
        marked = records.marked(engine)
    assert (marked.name, marked.signatures, marked.runs_on_caller) == ("fake", SIGNATURES, False)
    marked.release()
    assert engine.releases == 1
    assert marked.run(DEFAULT_SIGNATURE, {"x": 5}) == {"y": 5}  # type: ignore[dict-item]
    assert not is_deadly(marked)


def test_deadly_version_is_neither_loaded_nor_run(memory: SharedMemory) -> None:
    records = VersionRecords(memory)
    with records.loading("model", 1, FILES):
        engine = records.marked(FakeEngine(SIGNATURES, echo))
    records._record("model", 1, FILES).words[ENDED] = 2
    assert is_deadly(engine)
    assert not is_deadly(FakeEngine(SIGNATURES, echo))
    with pytest.raises(Deadly, match="2 worker processes died of it"):
        engine.run(DEFAULT_SIGNATURE, {})
    with pytest.raises(Deadly), VersionRecords(memory, 1).loading("model", 1, FILES):
        pass
    records.pardon("model")
    with VersionRecords(memory, 1).loading("model", 1, FILES):
        pass


def test_suspect_runs_only_while_others_listen(memory: SharedMemory) -> None:
    others: list[bool] = []
    records = VersionRecords(memory, others_listen=lambda: bool(others))
    with records.loading("model", 1, FILES):
        engine = records.marked(FakeEngine(SIGNATURES, echo))
    words = records._record("model", 1, FILES).words
    words[SUSPECT] = 2
    with pytest.raises(Unavailable, match="a worker process died of model version 1; it is run again once"):
        engine.run(DEFAULT_SIGNATURE, {"x": None})  # type: ignore[dict-item]
    others.append(True)
    engine.run(DEFAULT_SIGNATURE, {"x": None})  # type: ignore[dict-item]
    others.clear()
    # A process that is starting has no requests to lose.
    with records.loading("model", 1, FILES):
        engine.run(DEFAULT_SIGNATURE, {"x": None})  # type: ignore[dict-item]
    words[SUSPECT] = 1
    engine.run(DEFAULT_SIGNATURE, {"x": None})  # type: ignore[dict-item]


def load(records: VersionRecords, *, is_serving: bool = True) -> threading.Thread:
    def load_now() -> None:
        with records.loading("model", 1, FILES, is_serving=is_serving):
            pass

    thread = threading.Thread(target=load_now)
    thread.start()
    return thread


def is_waiting(thread: threading.Thread) -> bool:
    thread.join(0.1)
    return thread.is_alive()


def other_that_loads(memory: SharedMemory, slot: int) -> Forked:
    def load_forever(go: Callable[[], None]) -> None:
        memory.enter(slot)
        with VersionRecords(memory, slot).loading("model", 1, FILES):
            go()
            threading.Event().wait()

    other = Forked(load_forever)
    other.wait_until_it_says_so()
    return other


def test_serving_process_lets_another_load_first(memory: SharedMemory) -> None:
    other = other_that_loads(memory, 1)
    serving = load(VersionRecords(memory))
    assert is_waiting(serving)
    assert not is_waiting(load(VersionRecords(memory, 2), is_serving=False))
    other.kill()
    memory.free_slot(1)
    assert not is_waiting(serving)


def test_version_loaded_before_is_loaded_at_once(memory: SharedMemory) -> None:
    assert not is_waiting(load(VersionRecords(memory, 2)))
    other = other_that_loads(memory, 1)
    assert not is_waiting(load(VersionRecords(memory)))
    other.kill()


def test_serving_process_does_not_load_a_suspect_alone(memory: SharedMemory) -> None:
    others: list[bool] = []
    records = VersionRecords(memory, others_listen=lambda: bool(others))
    words = records._record("model", 1, FILES).words
    words[SUSPECT] = 1
    serving = load(records)
    assert is_waiting(serving)
    others.append(True)
    assert not is_waiting(serving)
    assert (words[BEGAN] > 0, words[LOADER]) == (True, 0)


def test_full_memory_hinders_no_load() -> None:
    memory = SharedMemory(MIN_CAPACITY)
    with memory.locked():
        memory.append(Kind.WINDOW, 0, b"", len(memory.view) - memory.end - mmap.PAGESIZE)
    assert memory.end == len(memory.view)
    records = VersionRecords(memory)
    with records.loading("model", 1, FILES):
        engine = records.marked(FakeEngine(SIGNATURES, echo))
    engine.run(DEFAULT_SIGNATURE, {"x": None})  # type: ignore[dict-item]
