import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.batch import BatchObserver
from service.batcher import BatchLimits
from service.drift_watch import DriftWatch
from service.engines import Engine, LoadError
from service.health import Health
from service.model_policies import Batching
from service.preparation import QUICK_SECONDS, Preparation, Probe
from service.serving_config import InvalidServingConfig, ServingConfig, write_serving_config
from service.signature import DEFAULT_SIGNATURE, TensorSpec
from service.version import LoadedVersion
from tests.unit.service.fakes import FakeEngine, any_shape, echo, loaded_version, signature, tensor
from tests.unit.service.watched_for_drift import UNIFORM, write_reference

OF = signature({"x": tensor("DT_FLOAT", -1)}, {"y": tensor("DT_FLOAT", -1)})
LIMITS = BatchLimits(max_batch_size=32, timeout_seconds=0)
SLOW = replace(loaded_version(signature({"x": tensor("DT_FLOAT", -1)})), row_seconds=QUICK_SECONDS)


def preparation(spec: TensorSpec) -> Preparation:
    engine = FakeEngine({DEFAULT_SIGNATURE: signature({"x": spec})}, echo)
    return Preparation(lambda _path, _config: engine, lambda _model, _version: BatchObserver(), LIMITS)


@pytest.mark.parametrize(("spec", "is_quick"), [(tensor("DT_FLOAT", -1), True), (any_shape("DT_FLOAT"), False)])
def test_a_version_that_is_not_known_to_be_quick_gets_a_batcher(
    tmp_path: Path, spec: TensorSpec, is_quick: bool
) -> None:
    loaded = preparation(spec).prepare("model", 1, tmp_path, Batching())
    assert (loaded.batcher is None) is is_quick


def test_what_serving_json_says_comes_with_the_version(tmp_path: Path) -> None:
    write_serving_config(tmp_path, ServingConfig(labels=("cat", "dog")))
    loaded = preparation(tensor("DT_FLOAT", -1)).prepare("model", 1, tmp_path, Batching())
    assert loaded.config.labels == ("cat", "dog")
    (tmp_path / "assets.extra" / "serving.json").write_text("[]")
    with pytest.raises(InvalidServingConfig):
        preparation(tensor("DT_FLOAT", -1)).prepare("model", 1, tmp_path, Batching())


@pytest.mark.parametrize("file", ["serving.json", "tf_serving_warmup_requests"])
def test_a_file_that_cannot_be_read_is_named_without_the_folders_of_this_machine(tmp_path: Path, file: str) -> None:
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / file).symlink_to(file)
    with pytest.raises(LoadError, match=f"^assets.extra/{file} cannot be read: Too many levels of symbolic links$"):
        preparation(tensor("DT_FLOAT", -1)).prepare("model", 1, tmp_path, Batching())


@pytest.mark.parametrize(
    "error", [OSError("no number"), OSError(5, "Input/output error"), OSError(5, "Input/output error", "/srv/secret/x")]
)
def test_an_error_of_the_disk_is_told_as_one(tmp_path: Path, error: OSError) -> None:
    def load(_path: Path, _config: ServingConfig) -> FakeEngine:
        raise error

    broken = Preparation(load, lambda _model, _version: BatchObserver(), LIMITS)
    with pytest.raises(LoadError, match="cannot be read: ") as refusal:
        broken.prepare("model", 1, tmp_path, Batching())
    assert "/" not in str(refusal.value).replace("Input/output", "")


def test_a_version_is_watched_for_drift_where_its_reference_says_how(tmp_path: Path) -> None:
    preparing = replace(preparation(tensor("DT_FLOAT", -1)), watch=DriftWatch(100).watch)
    assert preparing.prepare("model", 1, tmp_path, Batching()).drift is None
    write_reference(tmp_path, {"rows": 10, "inputs": {"x": UNIFORM}})
    loaded = preparing.prepare("model", 1, tmp_path, Batching())
    assert loaded.drift is not None
    assert preparing.with_batcher(loaded, Batching(max_batch_size=4)).drift is loaded.drift


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every version is slow, and three of its rows together pay. Which were judged, and up to how many rows."""
    asked: list[tuple[str, int]] = []

    def three(_engine: Engine, version: str, most: int, _row_seconds: float) -> int:
        asked.append((version, most))
        return 3

    monkeypatch.setattr("service.preparation.paying_rows", three)
    monkeypatch.setattr("service.preparation.QUICK_SECONDS", 0.0)
    return asked


def test_no_larger_batches_are_formed_nor_warmed_up_than_pay(tmp_path: Path, judged: list[tuple[str, int]]) -> None:
    loaded = preparation(OF.inputs["x"]).prepare("model", 1, tmp_path, Batching(batch_timeout_micros=500))
    assert judged == [("model version 1", 32)]
    assert loaded.limits == BatchLimits(3, 0.0005)
    assert isinstance(loaded.engine, FakeEngine)
    assert max(len(inputs["x"]) for _, inputs in loaded.engine.asked) == 3


def test_a_policy_that_names_a_size_is_followed_and_the_version_not_judged(
    tmp_path: Path, judged: list[tuple[str, int]]
) -> None:
    loaded = preparation(OF.inputs["x"]).prepare("model", 1, tmp_path, Batching(max_batch_size=8))
    assert judged == []
    assert loaded.limits.max_batch_size == 8
    assert isinstance(loaded.engine, FakeEngine)
    assert max(len(inputs["x"]) for _, inputs in loaded.engine.asked) == 8


@pytest.mark.usefixtures("judged")
def test_what_was_found_counts_again_when_a_policy_names_no_size_any_more(tmp_path: Path) -> None:
    preparing = preparation(OF.inputs["x"])
    loaded = preparing.prepare("model", 1, tmp_path, Batching())
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
def test_a_policy_counts_more_than_the_settings(
    monkeypatch: pytest.MonkeyPatch, batching: Batching, expected: BatchLimits
) -> None:
    given: list[BatchLimits] = []
    monkeypatch.setattr(
        "service.preparation.Batcher", lambda _run, _signatures, limits, _observer: given.append(limits)
    )
    preparation(tensor("DT_FLOAT", -1)).with_batcher(SLOW, batching)
    assert given == [expected]


@pytest.mark.parametrize(("max_batch_size", "in_parts"), [(None, True), (2, True), (1, False)])
def test_who_wants_no_batches_has_no_request_run_in_parts_either(max_batch_size: int | None, in_parts: bool) -> None:
    engine = FakeEngine({DEFAULT_SIGNATURE: OF}, echo)
    slow = replace(SLOW, engine=engine)
    loaded = preparation(tensor("DT_FLOAT", -1)).with_batcher(slow, Batching(max_batch_size=max_batch_size))
    assert loaded.runs_in_parts(DEFAULT_SIGNATURE, 33) is in_parts


def test_a_version_is_tried_by_a_row_and_not_kept_by_who_tries_it(tmp_path: Path) -> None:
    probes: list[Probe] = []

    def new_health(model: str, version: int, probe: Probe) -> Health:
        probes.append(probe)
        return Health(f"{model} {version}")

    prepared = replace(
        preparation(tensor("DT_FLOAT", -1)),
        load_engine=lambda _path, _config: FakeEngine({DEFAULT_SIGNATURE: OF}, echo),
        new_health=new_health,
    )
    loaded = prepared.prepare("model", 1, tmp_path, Batching())
    assert isinstance(loaded.engine, FakeEngine)
    loaded.engine.asked.clear()
    seconds = probes[0]()
    assert seconds is not None
    assert seconds < QUICK_SECONDS
    assert {tuple(inputs["x"]) for _, inputs in loaded.engine.asked} == {(0.0,)}
    del loaded
    gc.collect()
    assert probes[0]() is None


def test_a_version_that_is_kept_off_the_event_loop_has_a_batcher_whose_runs_its_health_knows() -> None:
    running: list[int] = []
    engine = FakeEngine({DEFAULT_SIGNATURE: OF}, lambda inputs: running.append(len(health._runs)) or echo(inputs))  # type: ignore[func-returns-value]
    health = Health()
    quick = LoadedVersion("model", 1, engine, ServingConfig(), row_seconds=1e-5, batch_gain_seconds=1, health=health)
    at = preparation(tensor("DT_FLOAT", -1))
    quick = at.with_batcher(quick, Batching())
    assert quick.turn_batcher is not None
    slow = at.off_loop(quick, Batching())
    assert slow.turn_batcher is None
    assert slow.batcher is not None
    assert slow.batcher.run(DEFAULT_SIGNATURE, {"x": np.zeros(1)}).outputs()["y"].tolist() == [0.0]
    assert running == [1]
