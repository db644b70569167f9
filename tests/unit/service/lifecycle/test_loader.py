from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.api.v1.decode import decode_example
from service.drift.watch import DriftWatch
from service.engines.base import Engine, LoadError
from service.inference.batching import BatchLimits, BatchObserver
from service.inference.pace import REMEMBERED_RUNS
from service.inference.version import LoadedVersion
from service.lifecycle.loader import Loader
from service.lifecycle.policies import Batching
from service.lifecycle.warm_up import Example
from service.serving_config import InvalidServingConfig, RowProof, ServingConfig, write_serving_config
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE, TensorSpec
from tests.unit.service.fakes import Arrays, FakeEngine, echo, loaded_version, signature, tensor
from tests.unit.service.watched_for_drift import UNIFORM, write_reference

OF = signature({"x": tensor("DT_FLOAT", -1)}, {"y": tensor("DT_FLOAT", -1)})
LIMITS = BatchLimits(max_batch_size=32, timeout_seconds=0)


def observe(_model: str, _version: int) -> BatchObserver:
    return BatchObserver()


def load_rows(_path: Path, _config: ServingConfig) -> FakeEngine:
    return FakeEngine({DEFAULT_SIGNATURE: OF}, echo)


class Contradictions(BatchObserver):
    count = 0

    def contradicted(self) -> None:
        self.count += 1


def preparation(spec: TensorSpec) -> Loader:
    engine = FakeEngine({DEFAULT_SIGNATURE: signature({"x": spec})}, echo)
    return Loader(lambda _path, _config: engine, lambda _model, _version: BatchObserver(), LIMITS, decode_example)


def says_so(**parts: Any) -> ServingConfig:
    """Its rows are independent."""
    proof = RowProof(signatures=(DEFAULT_SIGNATURE,), rows_tried=8, largest_difference=0.0, tolerance=1e-5)
    return ServingConfig(independent_rows=proof, **parts)


def test_a_version_whose_example_is_quick_is_run_by_the_event_loop_and_any_other_begins_in_threads(
    tmp_path: Path,
) -> None:
    assert not preparation(OF.inputs["x"]).load("model", 1, tmp_path, Batching()).pace.is_quick
    write_serving_config(tmp_path, says_so(example={"instances": [1.0]}))
    assert Loader(load_rows, observe, LIMITS, decode_example).load("model", 1, tmp_path, Batching()).pace.is_quick


@pytest.mark.parametrize(
    ("is_said", "batching", "expected"),
    [
        (False, Batching(), set()),
        (True, Batching(), {DEFAULT_SIGNATURE}),
        (False, Batching(independent_rows=True), {DEFAULT_SIGNATURE}),
        (True, Batching(independent_rows=False), set()),
        (True, Batching(max_batch_size=1), set()),
    ],
    ids=["nobody", "the version", "the operator", "the operator denies it", "no batches are wanted"],
)
def test_rows_are_independent_where_the_version_or_the_operator_says_so(
    tmp_path: Path, is_said: bool, batching: Batching, expected: set[str]
) -> None:
    write_serving_config(tmp_path, says_so() if is_said else ServingConfig())
    preparing = Loader(load_rows, observe, LIMITS, decode_example)
    loaded = preparing.load("model", 1, tmp_path, batching)
    assert loaded.independence.signatures == expected
    assert (loaded.tick_batcher is not None) is bool(expected)
    assert loaded.runs_in_batches(DEFAULT_SIGNATURE, 33) is bool(expected)
    assert preparing.with_batcher(loaded, Batching(independent_rows=True)).independence.signatures == {
        DEFAULT_SIGNATURE
    }


def test_a_batch_size_for_rows_that_nobody_calls_independent_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Loader(load_rows, observe, LIMITS, decode_example).load("model", 1, tmp_path, Batching(max_batch_size=8))
    assert (
        "model version 1: max_batch_size is set for it, but nothing says that its rows are independent" in caplog.text
    )


def test_what_outputs_have_contradicted_is_counted_and_not_said_again(tmp_path: Path) -> None:
    observer = Contradictions()
    preparing = Loader(load_rows, lambda _model, _version: observer, LIMITS, decode_example)
    loaded = preparing.load("model", 1, tmp_path, Batching(independent_rows=True))
    loaded.independence.contradict(DEFAULT_SIGNATURE)
    loaded.independence.contradict(DEFAULT_SIGNATURE)
    assert observer.count == 1
    loaded = preparing.with_batcher(loaded, Batching(independent_rows=True, max_batch_size=4))
    assert loaded.independence.signatures == set()


def test_what_serving_json_says_comes_with_the_version(tmp_path: Path) -> None:
    write_serving_config(tmp_path, ServingConfig(labels=("cat", "dog")))
    loaded = preparation(tensor("DT_FLOAT", -1)).load("model", 1, tmp_path, Batching())
    assert loaded.config.labels == ("cat", "dog")
    (tmp_path / "assets.extra" / "serving.json").write_text("[]")
    with pytest.raises(InvalidServingConfig):
        preparation(tensor("DT_FLOAT", -1)).load("model", 1, tmp_path, Batching())


@pytest.mark.parametrize("file", ["serving.json", "tf_serving_warmup_requests"])
def test_a_file_that_cannot_be_read_is_named_without_the_folders_of_this_machine(tmp_path: Path, file: str) -> None:
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / file).symlink_to(file)
    with pytest.raises(LoadError, match=f"^assets.extra/{file} cannot be read: Too many levels of symbolic links$"):
        preparation(tensor("DT_FLOAT", -1)).load("model", 1, tmp_path, Batching())


@pytest.mark.parametrize(
    "error", [OSError("no number"), OSError(5, "Input/output error"), OSError(5, "Input/output error", "/srv/secret/x")]
)
def test_an_error_of_the_disk_is_told_as_one(tmp_path: Path, error: OSError) -> None:
    def load(_path: Path, _config: ServingConfig) -> FakeEngine:
        raise error

    broken = Loader(load, lambda _model, _version: BatchObserver(), LIMITS, decode_example)
    with pytest.raises(LoadError, match="cannot be read: ") as refusal:
        broken.load("model", 1, tmp_path, Batching())
    assert "/" not in str(refusal.value).replace("Input/output", "")


def test_a_version_is_watched_for_drift_where_its_reference_says_how(tmp_path: Path) -> None:
    preparing = replace(preparation(tensor("DT_FLOAT", -1)), watch=DriftWatch(100).watch)
    assert preparing.load("model", 1, tmp_path, Batching()).drift is None
    write_reference(tmp_path, {"rows": 10, "inputs": {"x": UNIFORM}})
    loaded = preparing.load("model", 1, tmp_path, Batching())
    assert loaded.drift is not None
    assert preparing.with_batcher(loaded, Batching(max_batch_size=4)).drift is loaded.drift


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Three of the version's rows together pay. Which were judged, and up to how many rows."""
    found: list[tuple[str, int]] = []

    def three(_engine: Engine, version: str, most: int, _row_seconds: float, _example: Example) -> int:
        found.append((version, most))
        return 3

    monkeypatch.setattr("service.lifecycle.warm_up.best_batch_size", three)
    write_serving_config(tmp_path, says_so(example={"instances": [1.0]}))
    return found


def test_no_larger_batches_are_formed_than_pay(tmp_path: Path, judged: list[tuple[str, int]]) -> None:
    preparing = Loader(load_rows, observe, LIMITS, decode_example)
    loaded = preparing.load("model", 1, tmp_path, Batching(batch_timeout_micros=500))
    assert judged == [("model version 1", 32)]
    assert loaded.limits == BatchLimits(3, 0.0005)


def test_a_size_that_a_policy_names_counts_as_it_stands(tmp_path: Path, judged: list[tuple[str, int]]) -> None:
    preparing = Loader(load_rows, observe, LIMITS, decode_example)
    assert preparing.load("model", 1, tmp_path, Batching(max_batch_size=8)).limits.max_batch_size == 8
    assert judged == []
    loaded = preparing.load("model", 1, tmp_path, Batching())
    loaded = preparing.with_batcher(loaded, Batching(max_batch_size=8))
    assert loaded.limits.max_batch_size == 8
    assert preparing.with_batcher(loaded, Batching()).limits.max_batch_size == 3


@pytest.mark.parametrize(
    ("batching", "expected"),
    [
        (Batching(), LIMITS),
        (Batching(max_batch_size=4), BatchLimits(4, 0)),
        (Batching(batch_timeout_micros=500), BatchLimits(32, 0.0005)),
    ],
)
def test_a_policy_counts_more_than_the_settings(batching: Batching, expected: BatchLimits) -> None:
    loaded = preparation(tensor("DT_FLOAT", -1)).with_batcher(loaded_version(OF), batching)
    assert loaded.limits == expected


def test_what_threads_run_is_known_to_its_health_and_teaches_its_pace() -> None:
    running: list[int] = []

    def answer(inputs: Arrays) -> dict[str, Array]:
        running.append(len(loaded.health._runs))
        return echo(inputs)

    engine = FakeEngine({DEFAULT_SIGNATURE: OF}, answer)
    unknown = LoadedVersion("model", 1, engine, ServingConfig())
    loaded = preparation(tensor("DT_FLOAT", -1)).with_batcher(unknown, Batching())
    assert loaded.batcher is not None
    for _ in range(REMEMBERED_RUNS):
        assert loaded.batcher.run(DEFAULT_SIGNATURE, {"x": np.zeros(1)}).outputs()["y"].tolist() == [0.0]
    assert running == [1] * REMEMBERED_RUNS
    assert loaded.pace.is_quick


def test_labels_that_are_not_as_many_as_the_scores_are_refused_when_loaded(tmp_path: Path) -> None:
    scores = signature({"x": tensor("DT_FLOAT", -1)}, {"scores": tensor("DT_FLOAT", -1, 3)})
    write_serving_config(tmp_path, ServingConfig(labels=("cat", "dog")))
    of_three = Loader(
        lambda _path, _config: FakeEngine({DEFAULT_SIGNATURE: scores}, echo), observe, LIMITS, decode_example
    )
    with pytest.raises(LoadError, match="2 labels, and the output 'scores' has 3 scores a row"):
        of_three.load("model", 1, tmp_path, Batching())
