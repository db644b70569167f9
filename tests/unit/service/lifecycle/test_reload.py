"""Policies that a client sends: in force in all worker processes, until the operator's file changes."""

import re
from pathlib import Path
from typing import Any

import pytest

from service.engines.base import LoadError
from service.errors import AlreadyExists, FailedPrecondition, InvalidRequest, NotFound, Unavailable
from service.inference.version import State
from service.lifecycle.model_server_config import ModelConfig, policies_of
from service.lifecycle.policies import ModelPolicy, Policies
from tests.unit.service.lifecycle.conftest import MakeWorker, Pair
from tests.unit.service.lifecycle.worker import Worker, board_of, nearly_full_memory, while_scanning


def config_of(**base_paths: Path) -> Policies:
    return policies_of(
        [ModelConfig(name=name, base_path=str(path), model_platform="tensorflow") for name, path in base_paths.items()]
    )


def reload(*workers: Worker, **base_paths: Path) -> None:
    """Of all, by the first."""
    while_scanning(lambda: workers[0].watcher.reload(config_of(**base_paths)), *workers)


def test_all_serve_what_was_sent_and_nothing_else(serving: Pair, new_worker: MakeWorker, tmp_path: Path) -> None:
    one, other = serving
    for version in ("3", "4"):
        one.add(tmp_path / "elsewhere" / version)
    reload(other, one, before=tmp_path / "elsewhere")
    reload(one, other, sent=tmp_path / "elsewhere")
    for worker in serving:
        assert worker.states()["sent/4"] is State.AVAILABLE
        worker.scan(seconds=1)
        assert worker.states() == {"sent/4": State.AVAILABLE}
    late = new_worker(3)
    late.watcher.scan()
    assert late.states() == {"sent/4": State.AVAILABLE}


def test_changed_file_counts_again(worker: Worker, tmp_path: Path) -> None:
    worker.begin_with("a/1")
    worker.add(tmp_path / "elsewhere/1")
    reload(worker, sent=tmp_path / "elsewhere")
    worker.write_policies("[models.a]\nversions = 'all'")
    worker.scan(4, seconds=1)
    assert worker.states() == {"a/1": State.AVAILABLE}


@pytest.mark.parametrize(
    ("failing", "place", "message"),
    [
        ((0, 1), "x", "1 model(s) did not become available: sent (version 1: it is broken"),
        ((1,), "x", "sent (not by every worker process"),
        ((), "none", "sent (its base path cannot be read"),
    ],
    ids=["broken", "broken in another", "missing"],
)
def test_unavailable_model_is_400(serving: Pair, tmp_path: Path, failing: Any, place: str, message: str) -> None:
    serving[0].add(tmp_path / "x/1")
    for index in failing:
        serving[index].errors["x/1"] = LoadError("it is broken")
    with pytest.raises(InvalidRequest, match=re.escape(message)):
        reload(*serving, sent=tmp_path / place)


def test_refused_one_changes_nothing(worker: Worker, tmp_path: Path) -> None:
    def refuse(_policies: Policies) -> None:
        raise FailedPrecondition("not yet")

    worker.begin_with("a/1")
    worker.watcher._check_reload = refuse
    with pytest.raises(FailedPrecondition):
        worker.watcher.reload(config_of(b=tmp_path))
    worker.scan()
    assert worker.states() == {"a/1": State.AVAILABLE}


def test_slow_one_is_503(new_worker: MakeWorker, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"to reload the models takes longer than 0\.05 s"):
        new_worker(1, timeout_seconds=0.05).watcher.reload(config_of(a=tmp_path))


def test_one_that_the_memory_cannot_hold_is_503(tmp_path: Path) -> None:
    worker = Worker(tmp_path / "models", board=board_of(nearly_full_memory(), 0))
    with pytest.raises(Unavailable, match="the worker processes cannot be told to reload"):
        worker.watcher.reload(config_of(**{f"model{number}": tmp_path for number in range(1000)}))


def test_one_model_more_and_less(serving: Pair, tmp_path: Path) -> None:
    one, other = serving
    policy = ModelPolicy(base_path=str(one.add(tmp_path / "elsewhere/3").parent))
    while_scanning(lambda: one.watcher.add("b", policy), *serving)
    while_scanning(lambda: other.watcher.add("c", policy), *serving)
    for worker in serving:
        assert worker.states() == dict.fromkeys(("a/1", "b/3", "c/3"), State.AVAILABLE)
    with pytest.raises(AlreadyExists):
        other.watcher.add("b", policy)
    while_scanning(lambda: other.watcher.remove("b"), *serving, seconds=1)
    for worker in serving:
        assert worker.states() == dict.fromkeys(("a/1", "c/3"), State.AVAILABLE)
    with pytest.raises(NotFound, match="b is not loaded"):
        one.watcher.remove("b")


def test_model_that_cannot_be_added_is_not_kept(serving: Pair, tmp_path: Path) -> None:
    policy = ModelPolicy(base_path=str(tmp_path / "none"))
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="did not become available"):
            while_scanning(lambda: serving[0].watcher.add("b", policy), *serving)
