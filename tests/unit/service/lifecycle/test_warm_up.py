import itertools
import logging
import math
import threading
from pathlib import Path

import pytest
from PIL import Image

from service.api.v1.decode import decode_example
from service.engines.base import LoadError
from service.errors import InvalidRequest
from service.lifecycle.warm_up import (
    GAIN_ROWS,
    MAX_REPEAT_SECONDS,
    MAX_ROW_BYTES,
    MAX_RUNS,
    MIN_RUNS,
    WARM_UP_FILE,
    WarmUp,
    replay,
)
from service.serving_config import ASSETS, ImageSpec, Sample, ServingConfig
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE
from tests.unit.service import protobufs
from tests.unit.service.fakes import Arrays, FakeEngine, echo, signature, tensor


def warm_up(
    folder: Path, engine: FakeEngine, config: ServingConfig, independent: tuple[str, ...] = (), max_batch_size: int = 32
) -> WarmUp:
    done = WarmUp(engine, config, folder, "model version 1", independent, max_batch_size, decode_example)
    done.run()
    return done


def example(*instances: object) -> ServingConfig:
    return ServingConfig(example={"instances": list(instances)})


def rows_run(engine: FakeEngine) -> list[int]:
    return [len(inputs["x"]) for _, inputs in engine.asked]


ROWS = signature({"x": tensor("DT_FLOAT", -1)}, {"y": tensor("DT_FLOAT", -1)})


def test_a_version_that_brings_nothing_is_not_run_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    engine = FakeEngine({DEFAULT_SIGNATURE: ROWS}, echo)
    done = warm_up(tmp_path, engine, ServingConfig(), (DEFAULT_SIGNATURE,))
    assert engine.asked == []
    assert (done.row_seconds, done.batch_gain_seconds, done.best_batch_size) == (math.inf, math.inf, None)
    assert "model version 1 is not warmed up: it brings no recorded requests, and no example" in caplog.text


def test_the_example_is_run_once_where_rows_are_not_said_to_be_independent(tmp_path: Path) -> None:
    engine = FakeEngine({DEFAULT_SIGNATURE: ROWS}, echo)
    done = warm_up(tmp_path, engine, example(1.0, 2.0))
    assert [inputs["x"].tolist() for _, inputs in engine.asked] == [[1.0, 2.0]]
    assert done.row_seconds == math.inf


def test_the_example_of_independent_rows_is_timed_alone_among_eight_and_in_every_size(tmp_path: Path) -> None:
    engine = FakeEngine({DEFAULT_SIGNATURE: ROWS}, echo)
    done = warm_up(tmp_path, engine, example(5.0), (DEFAULT_SIGNATURE,), max_batch_size=10)
    assert 0 < done.row_seconds < math.inf
    assert done.batch_gain_seconds < math.inf
    assert {value for _, inputs in engine.asked for value in inputs["x"].tolist()} == {5.0}
    assert rows_run(engine)[0] == 1
    assert set(rows_run(engine)) <= {1, 2, 4, 8, 10}


@pytest.mark.parametrize(("seconds", "runs"), [(0.0, MAX_RUNS), (MAX_REPEAT_SECONDS, MIN_RUNS)])
def test_a_quick_model_is_run_more_often_than_a_slow_one_and_its_quickest_run_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, runs: int
) -> None:
    clock = itertools.accumulate(itertools.cycle([1.0, seconds + 0.001, 1.0, seconds]))
    monkeypatch.setattr("service.lifecycle.warm_up.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr("service.lifecycle.warm_up.QUICK_SECONDS", 0.0)
    engine = FakeEngine({DEFAULT_SIGNATURE: ROWS}, echo)
    done = warm_up(tmp_path, engine, example(0.0), (DEFAULT_SIGNATURE,), max_batch_size=1)
    assert done.row_seconds == pytest.approx(seconds, abs=1e-6)
    assert len(engine.asked) == runs + 1


def test_rows_that_are_large_are_not_tried_together(tmp_path: Path) -> None:
    large = signature({"x": tensor("DT_UINT8", -1, MAX_ROW_BYTES + 1)})
    engine = FakeEngine({DEFAULT_SIGNATURE: large}, echo)
    done = warm_up(tmp_path, engine, example([0] * (MAX_ROW_BYTES + 1)), (DEFAULT_SIGNATURE,))
    assert done.best_batch_size == 1
    assert max(rows_run(engine)) <= GAIN_ROWS


@pytest.mark.parametrize(
    "config",
    [
        ServingConfig(example={"instances": [["no number"]]}),
        ServingConfig(example={"picture": "missing.png"}),
        ServingConfig(example={"signature_name": "nowhere", "instances": [1.0]}),
        ServingConfig(samples=(Sample(file="missing.csv"),)),
    ],
    ids=["wrong type", "no such picture", "no such signature", "no such sample"],
)
def test_an_example_that_is_wrong_is_told_of_and_keeps_no_version_from_serving(
    tmp_path: Path, config: ServingConfig, caplog: pytest.LogCaptureFixture
) -> None:
    warm_up(tmp_path, FakeEngine({DEFAULT_SIGNATURE: ROWS}, echo), config)
    assert "model version 1: its example cannot be run (it is served all the same)" in caplog.text


def test_a_model_that_refuses_its_example_is_served_all_the_same(tmp_path: Path) -> None:
    def refuse(_inputs: Arrays) -> dict[str, Array]:
        raise InvalidRequest("x is above 100")

    engine = FakeEngine({DEFAULT_SIGNATURE: ROWS}, refuse)
    assert warm_up(tmp_path, engine, example(1.0), (DEFAULT_SIGNATURE,)).row_seconds == math.inf


def test_without_an_example_the_first_sample_is_run(tmp_path: Path) -> None:
    (tmp_path / ASSETS).mkdir()
    (tmp_path / ASSETS / "walk.csv").write_text("a,b\n1,2\n3,4\n")
    of = signature({"x": tensor("DT_FLOAT", -1, 2, 2)})
    for sample in (Sample(file="walk.csv"), Sample(instance=[[1.0, 2.0], [3.0, 4.0]])):
        engine = FakeEngine({DEFAULT_SIGNATURE: of}, echo)
        warm_up(tmp_path, engine, ServingConfig(samples=(sample,)))
        assert [inputs["x"].tolist() for _, inputs in engine.asked] == [[[[1.0, 2.0], [3.0, 4.0]]]]


def test_a_picture_as_the_example_becomes_the_input_as_serving_json_says(tmp_path: Path) -> None:
    (tmp_path / ASSETS).mkdir()
    Image.new("L", (4, 4), 255).save(tmp_path / ASSETS / "sample.png")
    engine = FakeEngine({DEFAULT_SIGNATURE: signature({"x": tensor("DT_FLOAT", -1, 2, 2)})}, echo)
    warm_up(
        tmp_path, engine, ServingConfig(example={"picture": "sample.png"}, image=ImageSpec(height=2, width=2, mode="L"))
    )
    assert [inputs["x"].tolist() for _, inputs in engine.asked] == [[[[255.0, 255.0], [255.0, 255.0]]]]


def test_a_warm_up_that_does_not_end_keeps_no_version_from_serving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.lifecycle.warm_up.MAX_SECONDS", 0.01)
    go_on, ended = threading.Event(), threading.Event()

    def hang(inputs: Arrays) -> dict[str, Array]:
        assert go_on.wait(10)
        ended.set()
        return echo(inputs)

    assert warm_up(tmp_path, FakeEngine({DEFAULT_SIGNATURE: ROWS}, hang), example(1.0)).row_seconds == math.inf
    assert "model version 1: its warm-up takes longer than 0.01 s; it serves meanwhile" in caplog.text
    go_on.set()
    assert ended.wait(10)


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


@pytest.mark.parametrize(
    ("largest", "row_seconds", "expected"),
    [(32, 0.002, [32, 16, 8, 4, 2, 1]), (10, 0.002, [10, 8, 4, 2, 1]), (1, 0.002, [1]), (32, 0.5, [4, 2, 1])],
)
def test_batches_are_run_from_the_largest_down_as_far_as_time_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int, row_seconds: float, expected: list[int]
) -> None:
    monkeypatch.setattr(WarmUp, "_shortest_run", lambda *_: row_seconds)
    engine = FakeEngine({DEFAULT_SIGNATURE: ROWS}, echo, runs_on_caller=False)
    warm_up(tmp_path, engine, example(1.0), (DEFAULT_SIGNATURE,), largest)
    assert rows_run(engine) == expected


def test_what_the_version_brings_is_replayed_and_a_failure_keeps_it_from_serving(tmp_path: Path) -> None:
    engine = FakeEngine({DEFAULT_SIGNATURE: ROWS}, echo)
    write_requests(tmp_path, protobufs.predict_log("nowhere", {"x": ONE_FLOAT}))
    with pytest.raises(LoadError, match="asks for the signature 'nowhere'"):
        warm_up(tmp_path, engine, ServingConfig())
