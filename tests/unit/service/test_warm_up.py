import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from service.engines import LoadError
from service.errors import InvalidRequest
from service.serving_config import ASSETS
from service.signature import DEFAULT_SIGNATURE
from service.tensors import Array
from service.warm_up import LEAST_RUNS, MOST_RUNS, SECONDS_FOR_MORE_RUNS, replay, warm_up, warm_up_sizes
from service.warm_up_requests import WARM_UP_FILE
from tests.unit.service import protobufs
from tests.unit.service.fakes import Arrays, FakeEngine, any_shape, echo, signature, tensor


def test_a_model_is_run_on_one_row_of_zeros_and_timed() -> None:
    of = signature({"x": tensor("DT_FLOAT", -1, 28, -1), "word": tensor("DT_STRING", -1), "n": tensor("DT_INT32")})
    engine = FakeEngine({DEFAULT_SIGNATURE: of}, echo)
    assert 0 < warm_up(engine) < math.inf
    assert LEAST_RUNS <= len(engine.asked) <= MOST_RUNS
    name, inputs = engine.asked[0]
    assert name == DEFAULT_SIGNATURE
    assert (inputs["x"].shape, inputs["x"].dtype) == ((1, 28, 1), np.float32)
    assert inputs["word"].tolist() == [b""]
    assert inputs["n"].shape == ()


@pytest.mark.parametrize(("seconds", "runs"), [(0.0, MOST_RUNS), (SECONDS_FOR_MORE_RUNS, LEAST_RUNS)])
def test_a_quick_model_is_run_more_often_than_a_slow_one_and_its_quickest_run_counts(
    monkeypatch: pytest.MonkeyPatch, seconds: float, runs: int
) -> None:
    clock = itertools.accumulate(itertools.cycle([1.0, seconds + 0.001, 1.0, seconds]))
    monkeypatch.setattr("service.warm_up.time.perf_counter", lambda: next(clock))
    engine = FakeEngine({DEFAULT_SIGNATURE: signature({"x": tensor("DT_FLOAT", -1)})}, echo)
    assert warm_up(engine) == pytest.approx(seconds, abs=1e-6)
    assert len(engine.asked) == runs


@pytest.mark.parametrize("spec", [any_shape("DT_FLOAT"), tensor("DT_RESOURCE", -1)])
def test_a_model_whose_input_cannot_be_made_up_counts_as_slow(spec: object) -> None:
    engine = FakeEngine({DEFAULT_SIGNATURE: signature({"x": spec})}, echo)  # type: ignore[dict-item]
    assert warm_up(engine) == math.inf
    assert engine.asked == []


def test_a_model_without_a_default_signature_counts_as_slow() -> None:
    assert warm_up(FakeEngine({"other": signature({"x": tensor("DT_FLOAT", -1)})}, echo)) == math.inf


def test_a_model_that_refuses_zeros_is_loaded_all_the_same() -> None:
    def refuse(_inputs: Arrays) -> dict[str, Array]:
        raise InvalidRequest("zeros are no picture")

    engine = FakeEngine({DEFAULT_SIGNATURE: signature({"x": tensor("DT_FLOAT", -1)})}, refuse)
    assert warm_up(engine) == math.inf


def write_requests(version: Path, *logs: bytes) -> Path:
    (version / ASSETS).mkdir(exist_ok=True)
    (version / ASSETS / WARM_UP_FILE).write_bytes(protobufs.tf_record(*logs))
    return version


ONE_FLOAT = protobufs.tensor(1, (1,), protobufs.message(4, b"\0\0\0\0"))


def test_the_requests_that_a_version_brings_are_run(tmp_path: Path) -> None:
    of = signature({"x": tensor("DT_FLOAT", -1)})
    engine = FakeEngine({DEFAULT_SIGNATURE: of, "other": of}, echo)
    assert not replay(engine, tmp_path)
    logs = protobufs.predict_log("", {"x": ONE_FLOAT}), protobufs.predict_log("other", {"x": ONE_FLOAT})
    assert replay(engine, write_requests(tmp_path, *logs))
    assert [name for name, _ in engine.asked] == [DEFAULT_SIGNATURE, "other"]


def test_examples_go_to_the_only_input_of_the_signature(tmp_path: Path) -> None:
    engine = FakeEngine({DEFAULT_SIGNATURE: signature({"inputs": tensor("DT_STRING", -1)})}, echo)
    replay(engine, write_requests(tmp_path, protobufs.examples_log(2, b"one", b"two")))
    assert engine.asked[0][1]["inputs"].tolist() == [b"one", b"two"]


@pytest.mark.parametrize(
    ("name", "inputs", "words"),
    [
        ("nowhere", {"x": ONE_FLOAT}, "asks for the signature 'nowhere'; there is 'serving_default'"),
        ("", {"y": ONE_FLOAT}, "its inputs are ['y']; expected ['x']"),
        ("", {"x": protobufs.tensor(1, (), protobufs.message(4, b"\0\0\0\0"))}, "'x' is float32 (); expected DT_FLOAT"),
        ("", {"x": protobufs.tensor(3, (1,), protobufs.whole(7, 1))}, "'x' is int32 (1,); expected DT_FLOAT (-1,)"),
    ],
)
def test_a_request_that_does_not_fit_keeps_the_version_from_being_loaded(
    tmp_path: Path, name: str, inputs: dict[str, bytes], words: str
) -> None:
    engine = FakeEngine({DEFAULT_SIGNATURE: signature({"x": tensor("DT_FLOAT", -1)})}, echo)
    with pytest.raises(LoadError) as raised:
        replay(engine, write_requests(tmp_path, protobufs.predict_log(name, inputs)))
    assert "tf_serving_warmup_requests, record 1" in str(raised.value)
    assert words in str(raised.value)
    assert engine.asked == []


def test_a_request_that_the_model_refuses_keeps_the_version_from_being_loaded(tmp_path: Path) -> None:
    def refuse(_inputs: Arrays) -> dict[str, Array]:
        raise InvalidRequest("x is above 100")

    engine = FakeEngine({DEFAULT_SIGNATURE: signature({"x": tensor("DT_FLOAT", -1)})}, refuse)
    with pytest.raises(LoadError, match=r"record 1: x is above 100"):
        replay(engine, write_requests(tmp_path, protobufs.predict_log("", {"x": ONE_FLOAT})))


def rows_run(engine: FakeEngine) -> list[int]:
    return [len(inputs["x"]) for _, inputs in engine.asked]


@pytest.mark.parametrize(
    ("largest", "row_seconds", "expected"),
    [(32, 0.002, [32, 16, 8, 4, 2, 1]), (10, 0.002, [10, 8, 4, 2, 1]), (1, 0.002, [1]), (32, 0.5, [4, 2, 1])],
)
def test_batches_are_run_from_the_largest_down_as_far_as_time_allows(
    largest: int, row_seconds: float, expected: list[int]
) -> None:
    engine = FakeEngine({DEFAULT_SIGNATURE: signature({"x": tensor("DT_FLOAT", -1, 2)})}, echo)
    warm_up_sizes(engine, largest, row_seconds)
    assert rows_run(engine) == expected


def test_batches_are_left_to_the_requests_where_no_input_can_be_made_up_or_is_taken() -> None:
    unknown = FakeEngine({DEFAULT_SIGNATURE: signature({"x": any_shape("DT_FLOAT")})}, echo)
    warm_up_sizes(unknown, 32, 0.002)
    assert unknown.asked == []

    def refuse(_inputs: Arrays) -> dict[str, Array]:
        raise InvalidRequest("zeros are no picture")

    refusing = FakeEngine({DEFAULT_SIGNATURE: signature({"x": tensor("DT_FLOAT", -1)})}, refuse)
    warm_up_sizes(refusing, 32, 0.002)
    assert len(refusing.asked) == 1
