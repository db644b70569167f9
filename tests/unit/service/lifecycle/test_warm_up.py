import contextlib
import itertools
import logging
import math
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.api.v1.decode import decode_example
from service.engines.base import LoadError
from service.errors import InvalidRequest
from service.lifecycle.warm_up import (
    GAIN_ROWS,
    MAX_MEASURE_SECONDS,
    MAX_RECORDS,
    MAX_REPEAT_SECONDS,
    MAX_ROW_BYTES,
    MAX_RUNS,
    MIN_MEASURED_SECONDS,
    MIN_RUNS,
    RUNS_PER_BATCH_SIZE,
    WARM_UP_FILE,
    Example,
    RecordedRequest,
    WarmUp,
    best_batch_size,
    recorded_requests,
    replay,
)
from service.serving_config import ASSETS, ImageSpec, Sample, ServingConfig
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE, Signature
from tests.unit.service import protobufs
from tests.unit.service.fakes import Arrays, FakeEngine, echo, signature, tensor
from tests.unit.service.protobufs import examples_log, message, predict_log, tf_record

ROWS = signature({"x": tensor("DT_FLOAT", -1)}, {"y": tensor("DT_FLOAT", -1)})


def warm_up(
    folder: Path, engine: FakeEngine, config: ServingConfig, independent: tuple[str, ...] = (), max_batch_size: int = 32
) -> WarmUp:
    done = WarmUp(engine, config, folder, "model version 1", independent, max_batch_size, decode_example)
    done.run()
    return done


def example(*instances: object) -> ServingConfig:
    return ServingConfig(example={"instances": list(instances)})


def rows_run(engine: FakeEngine) -> list[int]:
    return [len(inputs["x"]) for _, inputs in engine.runs]


def reject(_inputs: Arrays) -> dict[str, Array]:
    raise InvalidRequest("x is above 100")


def test_version_without_example_is_not_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    engine = FakeEngine({DEFAULT_SIGNATURE: ROWS}, echo)
    done = warm_up(tmp_path, engine, ServingConfig(), (DEFAULT_SIGNATURE,))
    assert engine.runs == []
    assert (done.row_seconds, done.batch_gain_seconds, done.best_batch_size) == (math.inf, math.inf, None)
    assert "model version 1 is not warmed up: it brings no recorded requests, and no example" in caplog.text


def test_example_of_dependent_rows_runs_once(tmp_path: Path) -> None:
    engine = FakeEngine({DEFAULT_SIGNATURE: ROWS}, echo)
    done = warm_up(tmp_path, engine, example(1.0, 2.0))
    assert [inputs["x"].tolist() for _, inputs in engine.runs] == [[1.0, 2.0]]
    assert done.row_seconds == math.inf


def test_example_of_independent_rows_runs_in_every_size(tmp_path: Path) -> None:
    engine = FakeEngine({DEFAULT_SIGNATURE: ROWS}, echo)
    done = warm_up(tmp_path, engine, example(5.0), (DEFAULT_SIGNATURE,), max_batch_size=10)
    assert 0 < done.row_seconds < math.inf
    assert done.batch_gain_seconds < math.inf
    assert {value for _, inputs in engine.runs for value in inputs["x"].tolist()} == {5.0}
    assert rows_run(engine)[0] == 1
    assert set(rows_run(engine)) <= {1, 2, 4, 8, 10}


@pytest.mark.parametrize(("seconds", "runs"), [(0.0, MAX_RUNS), (MAX_REPEAT_SECONDS, MIN_RUNS)])
def test_shortest_of_several_runs_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, runs: int
) -> None:
    clock = itertools.accumulate(itertools.cycle([1.0, seconds + 0.001, 1.0, seconds]))
    monkeypatch.setattr("service.lifecycle.warm_up.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr("service.lifecycle.warm_up.QUICK_SECONDS", 0.0)
    engine = FakeEngine({DEFAULT_SIGNATURE: ROWS}, echo)
    done = warm_up(tmp_path, engine, example(0.0), (DEFAULT_SIGNATURE,), max_batch_size=1)
    assert done.row_seconds == pytest.approx(seconds, abs=1e-6)
    assert len(engine.runs) == runs + 1


def test_large_rows_are_not_batched(tmp_path: Path) -> None:
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
def test_wrong_example_is_logged_and_ignored(
    tmp_path: Path, config: ServingConfig, caplog: pytest.LogCaptureFixture
) -> None:
    warm_up(tmp_path, FakeEngine({DEFAULT_SIGNATURE: ROWS}, echo), config)
    assert "model version 1: its example cannot be run (it is served all the same)" in caplog.text


def test_rejected_example_is_ignored(tmp_path: Path) -> None:
    engine = FakeEngine({DEFAULT_SIGNATURE: ROWS}, reject)
    assert warm_up(tmp_path, engine, example(1.0), (DEFAULT_SIGNATURE,)).row_seconds == math.inf


def test_first_sample_runs_without_an_example(tmp_path: Path) -> None:
    (tmp_path / ASSETS).mkdir()
    (tmp_path / ASSETS / "walk.csv").write_text("a,b\n1,2\n3,4\n")
    of = signature({"x": tensor("DT_FLOAT", -1, 2, 2)})
    for sample in (Sample(file="walk.csv"), Sample(instance=[[1.0, 2.0], [3.0, 4.0]])):
        engine = FakeEngine({DEFAULT_SIGNATURE: of}, echo)
        warm_up(tmp_path, engine, ServingConfig(samples=(sample,)))
        assert [inputs["x"].tolist() for _, inputs in engine.runs] == [[[[1.0, 2.0], [3.0, 4.0]]]]


def test_picture_as_the_example(tmp_path: Path) -> None:
    (tmp_path / ASSETS).mkdir()
    Image.new("L", (4, 4), 255).save(tmp_path / ASSETS / "sample.png")
    engine = FakeEngine({DEFAULT_SIGNATURE: signature({"x": tensor("DT_FLOAT", -1, 2, 2)})}, echo)
    warm_up(
        tmp_path, engine, ServingConfig(example={"picture": "sample.png"}, image=ImageSpec(height=2, width=2, mode="L"))
    )
    assert [inputs["x"].tolist() for _, inputs in engine.runs] == [[[[255.0, 255.0], [255.0, 255.0]]]]


def test_warm_up_has_a_time_limit(
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


@pytest.mark.parametrize(
    ("largest", "row_seconds", "expected"),
    [(32, 0.002, [32, 16, 8, 4, 2, 1]), (10, 0.002, [10, 8, 4, 2, 1]), (1, 0.002, [1]), (32, 0.5, [4, 2, 1])],
)
def test_sizes_run_from_the_largest_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int, row_seconds: float, expected: list[int]
) -> None:
    monkeypatch.setattr(WarmUp, "_shortest_run", lambda *_: row_seconds)
    engine = FakeEngine({DEFAULT_SIGNATURE: ROWS}, echo, runs_on_caller=False)
    warm_up(tmp_path, engine, example(1.0), (DEFAULT_SIGNATURE,), largest)
    assert rows_run(engine) == expected


def write_requests(version: Path, *logs: bytes) -> Path:
    (version / ASSETS).mkdir(exist_ok=True)
    (version / ASSETS / WARM_UP_FILE).write_bytes(tf_record(*logs))
    return version


ONE_FLOAT = protobufs.tensor(1, (1,), message(4, b"\0\0\0\0"))


def test_failed_recorded_request_fails_the_warm_up(tmp_path: Path) -> None:
    engine = FakeEngine({DEFAULT_SIGNATURE: ROWS}, echo)
    write_requests(tmp_path, predict_log("nowhere", {"x": ONE_FLOAT}))
    with pytest.raises(LoadError, match="asks for the signature 'nowhere'"):
        warm_up(tmp_path, engine, ServingConfig())


def test_recorded_requests_are_replayed(tmp_path: Path) -> None:
    engine = FakeEngine({DEFAULT_SIGNATURE: ROWS, "other": ROWS}, echo)
    assert not replay(engine, tmp_path)
    logs = predict_log("", {"x": ONE_FLOAT}), predict_log("other", {"x": ONE_FLOAT})
    assert replay(engine, write_requests(tmp_path, *logs))
    assert [name for name, _ in engine.runs] == [DEFAULT_SIGNATURE, "other"]


def test_recorded_examples_go_to_the_only_input(tmp_path: Path) -> None:
    engine = FakeEngine({DEFAULT_SIGNATURE: signature({"inputs": tensor("DT_STRING", -1)})}, echo)
    replay(engine, write_requests(tmp_path, examples_log(2, b"one", b"two")))
    assert engine.runs[0][1]["inputs"].tolist() == [b"one", b"two"]


@pytest.mark.parametrize(
    ("name", "inputs", "words"),
    [
        ("nowhere", {"x": ONE_FLOAT}, "asks for the signature 'nowhere'; there is 'serving_default'"),
        ("", {"y": ONE_FLOAT}, "its inputs are ['y']; expected ['x']"),
        ("", {"x": protobufs.tensor(1, (), message(4, b"\0\0\0\0"))}, "'x' is float32 (); expected DT_FLOAT"),
        ("", {"x": protobufs.tensor(3, (1,), protobufs.whole(7, 1))}, "'x' is int32 (1,); expected DT_FLOAT (-1,)"),
    ],
)
def test_recorded_request_must_fit_the_signature(
    tmp_path: Path, name: str, inputs: dict[str, bytes], words: str
) -> None:
    engine = FakeEngine({DEFAULT_SIGNATURE: ROWS}, echo)
    with pytest.raises(LoadError) as raised:
        replay(engine, write_requests(tmp_path, predict_log(name, inputs)))
    assert "tf_serving_warmup_requests, record 1" in str(raised.value)
    assert words in str(raised.value)
    assert engine.runs == []


def test_rejected_recorded_request_is_a_load_error(tmp_path: Path) -> None:
    engine = FakeEngine({DEFAULT_SIGNATURE: ROWS}, reject)
    with pytest.raises(LoadError, match=r"record 1: x is above 100"):
        replay(engine, write_requests(tmp_path, predict_log("", {"x": ONE_FLOAT})))


ONE = protobufs.tensor(1, (1,), message(5, struct.pack("<f", 1.5)))


def read(version: Path, content: bytes) -> list[RecordedRequest]:
    (version / ASSETS).mkdir(exist_ok=True)
    (version / ASSETS / WARM_UP_FILE).write_bytes(content)
    return list(recorded_requests(version))


def test_no_recorded_requests(tmp_path: Path) -> None:
    assert list(recorded_requests(tmp_path)) == []
    assert read(tmp_path, b"") == []


def test_recorded_predict_request(tmp_path: Path) -> None:
    first, second = read(tmp_path, tf_record(predict_log("", {"x": ONE}), predict_log("other", {"a": ONE, "b": ONE})))
    assert (first.where, first.signature_name) == (f"{ASSETS}/{WARM_UP_FILE}, record 1", "serving_default")
    assert first.inputs["x"].tolist() == [1.5]
    assert (second.signature_name, set(second.inputs)) == ("other", {"a", "b"})


@pytest.mark.parametrize("kind", [2, 3])
def test_recorded_examples_with_context(tmp_path: Path, kind: int) -> None:
    plain, merged = read(
        tmp_path, tf_record(examples_log(kind, b"one", b"two"), examples_log(kind, b"one", context=b"context "))
    )
    assert plain.inputs[""].tolist() == [b"one", b"two"]
    assert merged.inputs[""].tolist() == [b"context one"]


@pytest.mark.parametrize("kind", [4, 5, 7])
def test_unsupported_kinds_are_skipped(tmp_path: Path, kind: int) -> None:
    (one,) = read(tmp_path, tf_record(message(kind), predict_log("", {"x": ONE})))
    assert one.where.endswith("record 2")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not a record", "is no TFRecord file, or ends in the middle of a record"),
        (tf_record(predict_log("", {"x": ONE}))[:-1], "is no TFRecord file, or ends in the middle of a record"),
        (tf_record(b"\xff"), "record 1 is no tensorflow.serving.PredictionLog"),
        (tf_record(b""), "it holds neither a predict_log nor a classify_log nor a regress_log"),
        (tf_record(predict_log("", {"x": protobufs.tensor(1, (2,))})), "a tensor of the shape (2,) holds 0 values"),
        (tf_record(*[message(4)] * (MAX_RECORDS + 1)), f"has too many records: at most {MAX_RECORDS} are taken"),
    ],
)
def test_damaged_file_is_a_load_error(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(LoadError) as raised:
        read(tmp_path, content)
    assert words in str(raised.value)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("version")


@given(st.binary(max_size=60), st.booleans())
def test_random_bytes_raise_only_load_errors(version: Path, content: bytes, is_framed: bool) -> None:
    with contextlib.suppress(LoadError):
        read(version, tf_record(content) if is_framed else content)


PAIRS = signature({"x": tensor("DT_FLOAT", -1, 2)}, {"y": tensor("DT_FLOAT", -1, 2)})
ROW_SECONDS = 0.01
EXAMPLE = Example(DEFAULT_SIGNATURE, {"x": np.ones((1, 2), np.float32)})

Cost = Callable[[int], float]


class Timed:
    """An engine with a clock, by which a run takes `cost(rows)` seconds."""

    def __init__(self, cost: Cost, of: Signature = PAIRS) -> None:
        self.now = 0.0
        self._cost = cost
        self.engine = FakeEngine({DEFAULT_SIGNATURE: of}, self._answer)

    def best_batch_size(self, max_rows: int = 32, row_seconds: float = ROW_SECONDS) -> int | None:
        return best_batch_size(self.engine, "model version 1", max_rows, row_seconds, EXAMPLE, lambda: self.now)

    def rows_run(self) -> list[int]:
        return [len(inputs["x"]) for _, inputs in self.engine.runs]

    def _answer(self, inputs: Arrays) -> dict[str, Array]:
        self.now += self._cost(len(inputs["x"]))
        return echo(inputs)


def one_by_one(rows: int) -> float:
    return 0.01 * rows


def half_for_all(rows: int) -> float:
    return 0.005 + 0.005 * rows


def up_to_four(rows: int) -> float:
    return 0.01 * rows * (0.5 if rows >= 4 else 1)


@pytest.mark.parametrize(
    ("cost", "max_rows", "expected"),
    [
        (one_by_one, 32, 1),
        (lambda rows: 0.0096 * rows if rows > 1 else 0.01, 32, 1),
        (lambda rows: 0.011 * rows if rows > 1 else 0.01, 32, 1),
        (half_for_all, 32, 16),
        (half_for_all, 16, 16),
        (half_for_all, 5, 4),
        (half_for_all, 3, 3),
        (up_to_four, 32, 4),
        (lambda _rows: 0.01, 32, 32),
        (lambda _rows: 0.01, 2, 2),
        (lambda _rows: 0.01, 1, 1),
    ],
)
def test_best_batch_size(cost: Cost, max_rows: int, expected: int) -> None:
    assert Timed(cost).best_batch_size(max_rows) == expected


def test_measuring_stops_at_the_first_size_without_gain() -> None:
    timed = Timed(up_to_four)
    timed.best_batch_size(100)
    assert timed.rows_run() == [4, 1] * RUNS_PER_BATCH_SIZE + [16, 4] * RUNS_PER_BATCH_SIZE
    assert timed.engine.releases == 1


def test_best_of_several_runs_counts() -> None:
    for held_up in (1, 4):
        runs: list[int] = []

        def cost(rows: int, held_up: int = held_up, runs: list[int] = runs) -> float:
            runs.append(rows)
            return half_for_all(rows) * (3 if rows == held_up and runs.count(rows) < RUNS_PER_BATCH_SIZE else 1)

        assert Timed(cost).best_batch_size(4) == 4


@pytest.mark.parametrize("row_seconds", [MIN_MEASURED_SECONDS * 0.9, MAX_MEASURE_SECONDS / 4, math.inf])
def test_quick_and_slow_versions_are_not_measured(row_seconds: float) -> None:
    timed = Timed(one_by_one)
    assert timed.best_batch_size(row_seconds=row_seconds) is None
    assert timed.rows_run() == []


def test_size_is_unknown_when_time_runs_out() -> None:
    timed = Timed(half_for_all)
    assert timed.best_batch_size(row_seconds=MAX_MEASURE_SECONDS / RUNS_PER_BATCH_SIZE / 24) is None
    assert timed.rows_run() == [4, 1] * RUNS_PER_BATCH_SIZE
    assert timed.engine.releases == 1


def test_engine_with_threads_is_not_measured() -> None:
    timed = Timed(one_by_one)
    timed.engine.runs_on_caller = False
    assert timed.best_batch_size() is None
    assert timed.rows_run() == []


def test_best_batch_size_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "service.lifecycle.warm_up"):
        Timed(one_by_one).best_batch_size()
        Timed(up_to_four).best_batch_size()
        Timed(one_by_one).best_batch_size(1)
        Timed(one_by_one).best_batch_size(row_seconds=0)
    assert [record.getMessage() for record in caplog.records] == [
        "model version 1: a row takes 10.0 ms in a batch of 4, 10.0 in one of 1; batches are of 1 at most",
        "model version 1: a row takes 5.0 ms in a batch of 16, 5.0 in one of 4; batches are of 4 at most",
    ]
