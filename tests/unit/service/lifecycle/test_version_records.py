import threading
from collections.abc import Callable
from mmap import PAGESIZE
from typing import Any

import numpy as np
import pytest

from service.engines.base import Engine
from service.errors import Unavailable
from service.lifecycle.version_records import Deadly, VersionRecords, is_deadly
from service.runtime.deaths import BEGAN, ENDED, LOADER, MAX_THREADS, SUSPECT, under_way
from service.runtime.shared_memory import Areas, Kind, SharedMemory
from service.tensors.signature import DEFAULT_SIGNATURE
from tests.unit.service.fakes import Arrays, FakeEngine, RunFunction, echo
from tests.unit.service.forked import Forked
from tests.unit.service.held import Held
from tests.unit.service.lifecycle.worker import OF, nearly_full_memory

SIGNATURES = {DEFAULT_SIGNATURE: OF}
FILES = 7


@pytest.fixture
def records(memory: SharedMemory) -> VersionRecords:
    return VersionRecords(memory)


def marks(memory: SharedMemory) -> list[tuple[bool, bool]]:
    """Whether each marked thread is loading, and is running."""
    return [(bool(row.loading), bool(row.running)) for row in under_way(memory, Areas(memory, Kind.MARKS), 0)]


def loaded(records: VersionRecords, answer: RunFunction = echo, *, is_serving: bool = False) -> Engine:
    with records.loading("model", 1, FILES, is_serving=is_serving):
        return records.marked(FakeEngine(SIGNATURES, answer))


def run(engine: Engine) -> None:
    engine.run(DEFAULT_SIGNATURE, {"x": np.zeros(1)})


def run_in_thread(engine: Engine) -> threading.Thread:
    thread = threading.Thread(target=run, args=(engine,))
    thread.start()
    return thread


def test_loading_and_running_is_marked(memory: SharedMemory, records: VersionRecords) -> None:
    during_runs: list[list[tuple[bool, bool]]] = []

    def answer(inputs: Arrays) -> Any:
        during_runs.append(marks(memory))
        return echo(inputs)

    with records.loading("model", 1, FILES):
        engine = records.marked(FakeEngine(SIGNATURES, answer))
        assert marks(memory) == [(True, False)]
        run(engine)
        assert marks(memory) == [(True, False)]
    assert marks(memory) == []
    run(engine)
    assert marks(memory) == []
    assert during_runs == [[(True, True)], [(False, True)]]


def test_failure_removes_the_marks(memory: SharedMemory, records: VersionRecords) -> None:
    def fail(_inputs: Arrays) -> Any:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"), records.loading("model", 1, FILES):
        run(records.marked(FakeEngine(SIGNATURES, fail)))
    assert marks(memory) == []


def test_marks_of_ended_threads_are_reused(memory: SharedMemory, records: VersionRecords) -> None:
    engine = loaded(records)
    for _ in range(2 * MAX_THREADS):
        run_in_thread(engine).join()
    with records.loading("model", 1, FILES):
        assert marks(memory) == [(True, False)]


def test_more_threads_than_marks(memory: SharedMemory, records: VersionRecords) -> None:
    held = Held()

    def answer(inputs: Arrays) -> Any:
        held()
        return echo(inputs)

    engine = loaded(records, answer)
    threads = [run_in_thread(engine) for _ in range(MAX_THREADS + 5)]
    held.wait_for_calls(len(threads))
    # This thread has one too.
    assert len(marks(memory)) == MAX_THREADS - 1
    held.release()
    for thread in threads:
        thread.join()
    assert marks(memory) == []


def test_process_that_ends_in_order_or_begins_has_no_marks(memory: SharedMemory, records: VersionRecords) -> None:
    for clear in (records.end_in_order, lambda: VersionRecords(memory)):
        with records.loading("model", 1, FILES):
            clear()
            assert marks(memory) == []


def test_marked_engine_delegates(records: VersionRecords) -> None:
    engine = FakeEngine(SIGNATURES, echo, runs_on_caller=False)
    with records.loading("model", 1, FILES):
        marked = records.marked(engine)
    assert (marked.name, marked.signatures, marked.runs_on_caller) == ("fake", SIGNATURES, False)
    assert marked.run(DEFAULT_SIGNATURE, {"x": FILES}) == {"y": FILES}  # type: ignore[dict-item]
    marked.release()
    assert engine.releases == 1
    # Outside a load nothing is marked.
    assert records.marked(engine) is engine


def test_deadly_version_is_neither_loaded_nor_run(memory: SharedMemory, records: VersionRecords) -> None:
    engine = loaded(records)
    assert not is_deadly(engine)
    records._record("model", 1, FILES).words[ENDED] = 2
    assert is_deadly(engine)
    assert not is_deadly(FakeEngine(SIGNATURES, echo))
    with pytest.raises(Deadly, match="2 worker processes died of it"):
        run(engine)
    with pytest.raises(Deadly):
        loaded(VersionRecords(memory, 1))
    records.pardon("model")
    run(loaded(VersionRecords(memory, 1)))


def test_suspect_runs_only_while_others_listen(memory: SharedMemory) -> None:
    others: list[bool] = []
    records = VersionRecords(memory, others_listen=lambda: bool(others))
    engine = loaded(records)
    words = records._record("model", 1, FILES).words
    words[SUSPECT] = 2
    with pytest.raises(Unavailable, match="a worker process died of model version 1; it is run again once"):
        run(engine)
    others.append(True)
    run(engine)
    others.clear()
    # A process that is starting has no requests to lose.
    with records.loading("model", 1, FILES):
        run(engine)
    words[SUSPECT] = 1
    run(engine)


def is_waiting(thread: threading.Thread) -> bool:
    thread.join(0.1)
    return thread.is_alive()


def load_in_thread(records: VersionRecords, *, is_serving: bool = True) -> threading.Thread:
    thread = threading.Thread(target=lambda: loaded(records, is_serving=is_serving))
    thread.start()
    return thread


def other_that_loads(memory: SharedMemory) -> Forked:
    def load_forever(go: Callable[[], None]) -> None:
        memory.enter(1)
        with VersionRecords(memory, 1).loading("model", 1, FILES):
            go()
            threading.Event().wait()

    other = Forked(load_forever)
    other.wait_until_it_says_so()
    return other


def test_serving_process_lets_another_load_first(memory: SharedMemory, records: VersionRecords) -> None:
    other = other_that_loads(memory)
    serving = load_in_thread(records)
    assert is_waiting(serving)
    assert not is_waiting(load_in_thread(VersionRecords(memory, 2), is_serving=False))
    other.kill()
    memory.free_slot(1)
    assert not is_waiting(serving)


def test_version_loaded_before_is_loaded_at_once(memory: SharedMemory, records: VersionRecords) -> None:
    loaded(VersionRecords(memory, 2))
    other = other_that_loads(memory)
    assert not is_waiting(load_in_thread(records))
    other.kill()


def test_serving_process_does_not_load_a_suspect_alone(memory: SharedMemory) -> None:
    others: list[bool] = []
    records = VersionRecords(memory, others_listen=lambda: bool(others))
    words = records._record("model", 1, FILES).words
    words[SUSPECT] = 1
    serving = load_in_thread(records)
    assert is_waiting(serving)
    others.append(True)
    assert not is_waiting(serving)
    assert (words[BEGAN] > 0, words[LOADER]) == (True, 0)


def test_full_memory_hinders_no_load() -> None:
    run(loaded(VersionRecords(nearly_full_memory(PAGESIZE))))
