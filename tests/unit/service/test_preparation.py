from dataclasses import replace
from pathlib import Path

import pytest

from service.batch import BatchObserver
from service.batcher import BatchLimits
from service.drift_watch import DriftWatch
from service.engines import LoadError
from service.model_policies import Batching
from service.preparation import QUICK_SECONDS, Preparation
from service.serving_config import InvalidServingConfig, ServingConfig, write_serving_config
from service.signature import DEFAULT_SIGNATURE, TensorSpec
from tests.unit.service.fakes import FakeEngine, any_shape, echo, loaded_version, signature, tensor
from tests.unit.service.watched_for_drift import UNIFORM, write_reference

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
