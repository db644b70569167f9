import re
import threading

import pytest

from service.engines.base import LoadError
from service.inference.version import State
from service.lifecycle.succession import MIN_CHECK_PAUSE_SECONDS
from tests.unit.service.lifecycle.conftest import MakeWorker, Pair
from tests.unit.service.lifecycle.worker import MAX_WAIT_SECONDS, Worker, scan_in_turns


def poll(*workers: Worker, times: int = 3) -> None:
    """Often enough for changes to settle."""
    scan_in_turns(*workers, times=times, seconds=MIN_CHECK_PAUSE_SECONDS)


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The names of the changed files, by line."""
    return re.findall(r"a version 1: its files have changed since it was loaded \((.*?)\)", caplog.text)


def identity(worker: Worker) -> str:
    folder = worker.registry.get("a").folder
    assert folder is not None
    return folder.identity


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("saved_model.pb", b"another graph", ["'saved_model.pb'"]),
        ("assets.extra/serving.json", b"{}", ["'assets.extra/serving.json'"]),
        ("variables/variables.index", None, ["'variables/variables.index'"]),
        ("assets.extra/README.md", b"# Card", []),
    ],
    ids=["changed", "new", "removed", "not loaded"],
)
def test_changed_files_are_logged_once_and_not_loaded(
    worker: Worker, caplog: pytest.LogCaptureFixture, file: str, content: bytes | None, expected: list[str]
) -> None:
    version = worker.add("a/1")
    for folder in ("variables", "assets.extra"):
        (version / folder).mkdir()
    (version / "variables/variables.index").write_bytes(b"weights")
    poll(worker)
    if content is None:
        (version / file).unlink()
    else:
        (version / file).write_bytes(content)
    poll(worker, times=6)
    assert logged(caplog) == expected
    assert worker.loader.loaded == ["a/1"]


def test_changed_files_are_logged_once_they_settle_by_one_worker(
    serving: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    for size in range(4):
        serving[0].add("a/1", b"x" * size)
        poll(*serving, times=1)
    assert logged(caplog) == []
    poll(*serving)
    assert len(logged(caplog)) == 1


def test_new_worker_with_changed_files_waits_for_the_others(serving: Pair, new_worker: MakeWorker) -> None:
    one, other = serving
    before = identity(one)
    one.add("a/1", b"another graph")
    poll(one, other)
    late = new_worker(3)
    is_loading = threading.Event()
    late.loader.meanwhile = is_loading.set
    begins = threading.Thread(target=late.watcher.scan)
    begins.start()
    assert is_loading.wait(MAX_WAIT_SECONDS)
    # It is not ready yet, so that only the others answer.
    assert not late.registry.first_scan_done.is_set()
    assert identity(one) == identity(other) == before
    while begins.is_alive():
        poll(one, other, times=1)
    poll(one, other, late)
    assert one.states() == other.states() == late.states() == {"a/1": State.AVAILABLE}
    assert identity(one) == identity(other) == identity(late) != before
    assert one.loader.loaded == other.loader.loaded == ["a/1", "a/1"]


def test_changed_files_that_fail_leave_the_others_serving(new_worker: MakeWorker) -> None:
    one, late = new_worker(1), new_worker(2)
    one.begin_with("a/1")
    before = identity(one)
    one.add("a/1", b"another graph")
    poll(one)
    for worker in (one, late):
        worker.loader.errors["a/1"] = LoadError("half of it is missing")
    late.watcher.scan()
    assert late.states() == {"a/1": State.END}
    poll(one)
    assert identity(one) == before
    assert "half of it is missing" in one.error("a", 1)
