import threading
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from service.api.v1.decode import decode_example
from service.drift.monitor import DriftMonitor
from service.engines.base import Engine, LoadError
from service.inference.batching import BatchLimits, BatchObserver
from service.inference.pace import REMEMBERED_RUNS
from service.inference.version import LoadedVersion
from service.lifecycle.loader import Loader, LoadQueue, Retries
from service.lifecycle.policies import Batching
from service.lifecycle.repository import Key
from service.lifecycle.warm_up import Example
from service.serving_config import InvalidServingConfig, ServingConfig, write_serving_config
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE, Signature
from tests.unit.service.fakes import Arrays, FakeEngine, Unobserved, echo, signature, tensor
from tests.unit.service.held import Held
from tests.unit.service.lifecycle.worker import MAX_WAIT_SECONDS, PROOF, ROWS
from tests.unit.service.watched_for_drift import UNIFORM, write_reference

PROVED = ServingConfig(independent_rows=PROOF)
WITH_EXAMPLE = ServingConfig(independent_rows=PROOF, example={"instances": [1.0]})


def new_loader(of: Signature = ROWS, observer: BatchObserver | None = None) -> Loader:
    """Its engines have this signature."""

    def load_engine(_path: Path, _config: ServingConfig) -> FakeEngine:
        return FakeEngine({DEFAULT_SIGNATURE: of}, echo)

    return Loader(load_engine, lambda _model, _version: observer or Unobserved(), BatchLimits(32, 0), decode_example)


def load(path: Path, batching: Batching | None = None, loader: Loader | None = None) -> LoadedVersion:
    return (loader or new_loader()).load("model", 1, path, batching or Batching())


def test_version_with_a_quick_example_is_quick_once_warmed_up(tmp_path: Path) -> None:
    assert not load(tmp_path).pace.is_quick
    write_serving_config(tmp_path, WITH_EXAMPLE)
    assert load(tmp_path).pace.is_quick
    assert not load(tmp_path, loader=replace(new_loader(), warms_up=False)).pace.is_quick


@pytest.mark.parametrize(
    ("config", "setting", "batching", "expected"),
    [
        (ServingConfig(), False, Batching(), False),
        (PROVED, False, Batching(), True),
        (ServingConfig(), False, Batching(independent_rows=True), True),
        (PROVED, False, Batching(independent_rows=False), False),
        (PROVED, False, Batching(max_batch_size=1), False),
        (ServingConfig(), True, Batching(), True),
        (ServingConfig(), True, Batching(independent_rows=False), False),
    ],
    ids=["none", "proof", "policy", "denied by policy", "no batches", "setting", "setting denied by policy"],
)
def test_independent_rows(
    tmp_path: Path, config: ServingConfig, setting: bool, batching: Batching, expected: bool
) -> None:
    write_serving_config(tmp_path, config)
    loaded = load(tmp_path, batching, replace(new_loader(), independent_rows=setting))
    assert loaded.independence.signatures == ({DEFAULT_SIGNATURE} if expected else set())
    assert (loaded.tick_batcher is not None) is expected
    assert loaded.runs_in_batches(DEFAULT_SIGNATURE, 33) is expected
    changed = new_loader().with_batcher(loaded, Batching(independent_rows=True))
    assert changed.independence.signatures == {DEFAULT_SIGNATURE}


def test_batch_size_without_independent_rows_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(tmp_path, Batching(max_batch_size=8))
    assert "model version 1: max_batch_size is set for it, but nothing says" in caplog.text


def test_contradicted_signature_stays_unbatched(tmp_path: Path) -> None:
    observer = Mock(Unobserved)
    loader = new_loader(observer=observer)
    loaded = load(tmp_path, Batching(independent_rows=True), loader)
    for _ in range(2):
        loaded.independence.contradict(DEFAULT_SIGNATURE)
    observer.contradicted.assert_called_once()
    loaded = loader.with_batcher(loaded, Batching(independent_rows=True, max_batch_size=4))
    assert loaded.independence.signatures == set()


def test_serving_json_is_read_and_has_to_fit(tmp_path: Path) -> None:
    write_serving_config(tmp_path, ServingConfig(labels=("cat", "dog")))
    assert load(tmp_path).config.labels == ("cat", "dog")
    scores = signature({"x": tensor("DT_FLOAT", -1)}, {"scores": tensor("DT_FLOAT", -1, 3)})
    with pytest.raises(LoadError, match="2 labels, and the output 'scores' has 3 scores a row"):
        load(tmp_path, loader=new_loader(scores))
    (tmp_path / "assets.extra/serving.json").write_text("[]")
    with pytest.raises(InvalidServingConfig):
        load(tmp_path)


@pytest.mark.parametrize("file", ["serving.json", "tf_serving_warmup_requests"])
def test_unreadable_file_is_named_within_the_version(tmp_path: Path, file: str) -> None:
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / file).symlink_to(file)
    with pytest.raises(LoadError, match=f"^assets.extra/{file} cannot be read: Too many levels of symbolic links$"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("no number"), "one of its files cannot be read: OSError"),
        (OSError(5, "Input/output error"), "one of its files cannot be read: Input/output error"),
        (OSError(5, "Input/output error", "/srv/secret/x"), "x cannot be read: Input/output error"),
    ],
)
def test_disk_error_is_a_load_error_without_paths(tmp_path: Path, error: OSError, message: str) -> None:
    def load_engine(_path: Path, _config: ServingConfig) -> FakeEngine:
        raise error

    with pytest.raises(LoadError, match=f"^{message}$"):
        load(tmp_path, loader=replace(new_loader(), load_engine=load_engine))


def test_version_with_a_reference_has_a_drift_monitor(tmp_path: Path) -> None:
    loader = replace(new_loader(), watch=DriftMonitor(100).watch)
    assert load(tmp_path, loader=loader).drift is None
    write_reference(tmp_path, {"rows": 10, "inputs": {"x": UNIFORM}})
    loaded = load(tmp_path, loader=loader)
    assert loaded.drift is not None
    assert loader.with_batcher(loaded, Batching(max_batch_size=4)).drift is loaded.drift


def test_batch_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[str, int]] = []

    def measure(_engine: Engine, version: str, max_rows: int, _row_seconds: float, _example: Example) -> int:
        measured.append((version, max_rows))
        return 3

    monkeypatch.setattr("service.lifecycle.warm_up.best_batch_size", measure)
    assert load(tmp_path).limits == BatchLimits(32, 0)
    write_serving_config(tmp_path, WITH_EXAMPLE)
    assert load(tmp_path, Batching(max_batch_size=8)).limits == BatchLimits(8, 0)
    assert measured == []
    loaded = load(tmp_path, Batching(batch_timeout_micros=500))
    assert measured == [("model version 1", 32)]
    assert loaded.limits == BatchLimits(3, 0.0005)
    for batching, size in (Batching(max_batch_size=8), 8), (Batching(), 3):
        loaded = new_loader().with_batcher(loaded, batching)
        assert loaded.limits == BatchLimits(size, 0)


def test_runs_in_threads_reach_health_and_pace() -> None:
    running: list[int] = []

    def answer(inputs: Arrays) -> dict[str, Array]:
        running.append(len(loaded.health._runs))
        return echo(inputs)

    engine = FakeEngine({DEFAULT_SIGNATURE: ROWS}, answer)
    loaded = new_loader().with_batcher(LoadedVersion("model", 1, engine, ServingConfig()), Batching())
    assert loaded.batcher is not None
    for _ in range(REMEMBERED_RUNS):
        assert loaded.batcher.run(DEFAULT_SIGNATURE, {"x": np.zeros(1)}).outputs()["y"].tolist() == [0.0]
    assert running == [1] * REMEMBERED_RUNS
    assert loaded.pace.is_quick


A, B, C = ("a", 1), ("b", 1), ("c", 1)


def test_queue_loads_several_at_a_time() -> None:
    both = threading.Barrier(2)
    loaded: list[Key] = []

    def load(key: Key) -> None:
        if key != C:
            both.wait(MAX_WAIT_SECONDS)
        loaded.append(key)

    queue = LoadQueue(load, threads=2)
    queue.add([A, B, C])
    queue.wait()
    assert set(loaded) == {A, B, C}


def test_queue_loads_in_order_what_is_not_under_way() -> None:
    loaded: list[Key] = []
    held = Held()

    def load(key: Key) -> None:
        loaded.append(key)
        held()

    queue = LoadQueue(load, threads=1)
    assert queue.wait()
    queue.add([B, A, B])
    held.wait_for_calls()
    queue.add([B])
    held.release()
    assert queue.wait(MAX_WAIT_SECONDS)
    assert loaded == [B, A]
    queue.add([A])
    queue.wait()
    assert loaded == [B, A, A]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def pauses(retries: Retries, clock: Clock, count: int) -> list[float]:
    """Between so many failures and the next tries."""
    found = []
    for _ in range(count):
        retries.failed(A, 7, "broken")
        failed = clock.now
        while not retries.is_due(A, 7):
            clock.now += 1.0
        found.append(clock.now - failed)
    return found


def test_retry_pauses_double_up_to_a_maximum() -> None:
    retries = Retries(clock := Clock())
    assert retries.is_due(A, 7)
    assert pauses(retries, clock, 12) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]


def test_never_retry_ends_when_files_change_or_on_forget() -> None:
    retries = Retries(clock := Clock())
    retries.never_retry(A, 7)
    clock.now = 1e12
    assert (retries.is_due(A, 7), retries.is_due(A, 8)) == (False, True)
    for _ in range(2):
        retries.forget(A)
        assert retries.is_due(A, 7)


def test_changed_files_are_due_at_once_and_count_anew() -> None:
    retries = Retries(Clock())
    retries.failed(A, 7, "broken")
    reason = retries.failed(A, 7, "no memory")
    assert reason.startswith("no memory (tried 2 times; next at ")
    assert reason.endswith(" UTC, or when its files change)")
    assert not retries.is_due(A, 7)
    assert retries.is_due(A, 8)
    assert retries.failed(A, 8, "broken").startswith("broken (tried once; next at ")


def test_retries_may_end() -> None:
    retries = Retries(clock := Clock(), max_retries=2, pause_seconds=60)
    assert pauses(retries, clock, 2) == [60, 60]
    assert retries.failed(A, 7, "broken") == "broken (tried 3 times; next when its files change)"
    clock.now = 1e12
    assert (retries.is_due(A, 7), retries.is_due(A, 8)) == (False, True)
