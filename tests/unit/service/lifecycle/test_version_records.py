import mmap
import threading
from collections.abc import Callable

import numpy as np
import pytest

from service.engines.base import Engine
from service.errors import Unavailable
from service.lifecycle.version_records import Deadly, VersionRecords, is_deadly
from service.runtime.deaths import BEGAN, ENDED, LOADER, MAX_THREADS, SUSPECT, under_way
from service.runtime.shared_memory import MIN_CAPACITY, Areas, Kind, SharedMemory
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE
from tests.unit.service.fakes import Arrays, FakeEngine, RunFunction, any_shape, echo, signature
from tests.unit.service.forked import Forked
from tests.unit.service.held import Held

SIGNATURES = {DEFAULT_SIGNATURE: signature({"x": any_shape("DT_FLOAT")})}
INPUTS = {"x": np.zeros(1)}
FILES = 7


def marks(memory: SharedMemory, slot: int = 0) -> list[tuple[bool, bool]]:
    """Whether each marked thread is loading, and is running."""
    return [(bool(row.loading), bool(row.running)) for row in under_way(memory, Areas(memory, Kind.MARKS), slot)]


def loaded(records: VersionRecords, answer: RunFunction = echo, *, is_serving: bool = False) -> Engine:
    with records.loading("model", 1, FILES, is_serving=is_serving):
        return records.marked(FakeEngine(SIGNATURES, answer))


def test_loading_and_running_is_marked(memory: SharedMemory) -> None:
    during_runs: list[list[tuple[bool, bool]]] = []

    def answer(inputs: Arrays) -> dict[str, Array]:
        during_runs.append(marks(memory))
        return echo(inputs)

    records = VersionRecords(memory)
    with records.loading("model", 1, FILES):
        engine = records.marked(FakeEngine(SIGNATURES, answer))
        assert marks(memory) == [(True, False)]
        engine.run(DEFAULT_SIGNATURE, INPUTS)
        assert marks(memory) == [(True, False)]
    assert marks(memory) == []
    engine.run(DEFAULT_SIGNATURE, INPUTS)
    assert marks(memory) == []
    assert during_runs == [[(True, True)], [(False, True)]]


def test_failure_removes_the_marks(memory: SharedMemory) -> None:
    def fail(_inputs: Arrays) -> dict[str, Array]:
        raise ValueError("broken")

    records = VersionRecords(memory)
    with pytest.raises(ValueError, match="broken"), records.loading("model", 1, FILES):
        records.marked(FakeEngine(SIGNATURES, fail)).run(DEFAULT_SIGNATURE, INPUTS)
    assert marks(memory) == []


def run_in_thread(engine: Engine) -> threading.Thread:
    thread = threading.Thread(target=engine.run, args=(DEFAULT_SIGNATURE, INPUTS))
    thread.start()
    return thread


def test_marks_of_ended_threads_are_reused(memory: SharedMemory) -> None:
    records = VersionRecords(memory)
    engine = loaded(records)
    for _ in range(2 * MAX_THREADS):
        run_in_thread(engine).join()
    with records.loading("model", 1, FILES):
        assert marks(memory) == [(True, False)]


def test_more_threads_than_marks(memory: SharedMemory) -> None:
    held = Held()

    def answer(inputs: Arrays) -> dict[str, Array]:
        held()
        return echo(inputs)

    engine = loaded(VersionRecords(memory), answer)
    threads = [run_in_thread(engine) for _ in range(MAX_THREADS + 5)]
    held.wait_for_calls(len(threads))
    # This thread has one too.
    assert len(marks(memory)) == MAX_THREADS - 1
    held.release()
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


def test_marked_engine_delegates(memory: SharedMemory) -> None:
    records, engine = VersionRecords(memory), FakeEngine(SIGNATURES, echo, runs_on_caller=False)
    with records.loading("model", 1, FILES):
        marked = records.marked(engine)
    assert (marked.name, marked.signatures, marked.runs_on_caller) == ("fake", SIGNATURES, False)
    assert marked.run(DEFAULT_SIGNATURE, INPUTS) == {"y": INPUTS["x"]}
    marked.release()
    assert engine.releases == 1
    # Outside a load nothing is marked.
    assert records.marked(engine) is engine


def test_deadly_version_is_neither_loaded_nor_run(memory: SharedMemory) -> None:
    records = VersionRecords(memory)
    engine = loaded(records)
    assert not is_deadly(engine)
    records._record("model", 1, FILES).words[ENDED] = 2
    assert is_deadly(engine)
    assert not is_deadly(FakeEngine(SIGNATURES, echo))
    with pytest.raises(Deadly, match="2 worker processes died of it"):
        engine.run(DEFAULT_SIGNATURE, INPUTS)
    with pytest.raises(Deadly):
        loaded(VersionRecords(memory, 1))
    records.pardon("model")
    loaded(VersionRecords(memory, 1)).run(DEFAULT_SIGNATURE, INPUTS)


def test_suspect_runs_only_while_others_listen(memory: SharedMemory) -> None:
    others: list[bool] = []
    records = VersionRecords(memory, others_listen=lambda: bool(others))
    engine = loaded(records)
    words = records._record("model", 1, FILES).words
    words[SUSPECT] = 2
    with pytest.raises(Unavailable, match="a worker process died of model version 1; it is run again once"):
        engine.run(DEFAULT_SIGNATURE, INPUTS)
    others.append(True)
    engine.run(DEFAULT_SIGNATURE, INPUTS)
    others.clear()
    # A process that is starting has no requests to lose.
    with records.loading("model", 1, FILES):
        engine.run(DEFAULT_SIGNATURE, INPUTS)
    words[SUSPECT] = 1
    engine.run(DEFAULT_SIGNATURE, INPUTS)


def load(records: VersionRecords, *, is_serving: bool = True) -> threading.Thread:
    thread = threading.Thread(target=lambda: loaded(records, is_serving=is_serving))
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
    loaded(VersionRecords(memory, 2))
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
    loaded(VersionRecords(memory)).run(DEFAULT_SIGNATURE, INPUTS)
