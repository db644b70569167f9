import contextlib
import itertools
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.api.v1.decode import decode_example
from service.engines.base import LoadError
from service.errors import InvalidRequest
from service.lifecycle import warm_up
from service.lifecycle.warm_up import RUNS_PER_BATCH_SIZE, Example, WarmUp, best_batch_size, recorded_requests, replay
from service.serving_config import ASSETS, ImageSpec, Sample, ServingConfig
from service.tensors.signature import DEFAULT_SIGNATURE, Signature
from tests.unit.service import protobufs
from tests.unit.service.fakes import Arrays, FakeEngine, RunFunction, echo, signature, tensor
from tests.unit.service.held import Held
from tests.unit.service.lifecycle.worker import ROWS
from tests.unit.service.protobufs import examples_log, message, predict_log, tf_record


def new_engine(answer: RunFunction = echo, of: Signature = ROWS) -> FakeEngine:
    return FakeEngine({DEFAULT_SIGNATURE: of}, answer)


def warmed_up(
    folder: Path, engine: FakeEngine, config: ServingConfig, max_batch_size: int = 32, *, independent: bool = True
) -> WarmUp:
    signatures = [DEFAULT_SIGNATURE] if independent else []
    done = WarmUp(engine, config, folder, "model version 1", signatures, max_batch_size, decode_example)
    done.run()
    return done


def example(*instances: object) -> ServingConfig:
    return ServingConfig(example={"instances": list(instances)})


def rows_run(engine: FakeEngine) -> list[int]:
    return [len(inputs["x"]) for _, inputs in engine.runs]


def inputs_run(engine: FakeEngine) -> list[object]:
    return [inputs["x"].tolist() for _, inputs in engine.runs]


def reject(_inputs: Arrays) -> Any:
    raise InvalidRequest("x is above 100")


def test_version_without_example_is_not_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    engine = new_engine()
    done = warmed_up(tmp_path, engine, ServingConfig())
    assert engine.runs == []
    assert (done.row_seconds, done.batch_gain_seconds, done.best_batch_size) == (math.inf, math.inf, None)
    assert "model version 1 is not warmed up: it brings no recorded requests, and no example" in caplog.text


def test_example_of_independent_rows_runs_in_every_size(tmp_path: Path) -> None:
    engine = new_engine()
    done = warmed_up(tmp_path, engine, example(5.0), max_batch_size=10)
    assert 0 < done.row_seconds < math.inf
    assert done.batch_gain_seconds < math.inf
    assert {value for _, inputs in engine.runs for value in inputs["x"].tolist()} == {5.0}
    assert rows_run(engine)[0] == 1
    assert set(rows_run(engine)) <= {1, 2, 4, 8, 10}


@pytest.mark.parametrize(("seconds", "runs"), [(0.0, warm_up.MAX_RUNS), (warm_up.MAX_REPEAT_SECONDS, warm_up.MIN_RUNS)])
def test_shortest_run_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, runs: int) -> None:
    clock = itertools.accumulate(itertools.cycle([1.0, seconds + 0.001, 1.0, seconds]))
    monkeypatch.setattr("service.lifecycle.warm_up.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr(warm_up, "QUICK_SECONDS", 0.0)
    engine = new_engine()
    done = warmed_up(tmp_path, engine, example(0.0), max_batch_size=1)
    assert done.row_seconds == pytest.approx(seconds, abs=1e-6)
    assert len(engine.runs) == runs + 1


def test_large_rows_are_not_batched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_up, "MAX_ROW_BYTES", 3)
    engine = new_engine()
    assert warmed_up(tmp_path, engine, example(1.0)).best_batch_size == 1
    assert max(rows_run(engine)) <= warm_up.GAIN_ROWS


@pytest.mark.parametrize(
    ("config", "answer"),
    [
        (ServingConfig(example={"instances": [["no number"]]}), echo),
        (ServingConfig(example={"picture": "missing.png"}), echo),
        (ServingConfig(example={"signature_name": "nowhere", "instances": [1.0]}), echo),
        (ServingConfig(samples=(Sample(file="missing.csv"),)), echo),
        (example(1.0), reject),
    ],
    ids=["type", "picture", "signature", "sample", "rejected"],
)
def test_wrong_example_is_logged_and_ignored(
    tmp_path: Path, config: ServingConfig, answer: RunFunction, caplog: pytest.LogCaptureFixture
) -> None:
    assert warmed_up(tmp_path, new_engine(answer), config).row_seconds == math.inf
    assert "model version 1: its example cannot be run (it is served all the same)" in caplog.text


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ServingConfig(samples=(Sample(file="walk.csv"),)), [[1.0, 2.0], [3.0, 4.0]]),
        (ServingConfig(samples=(Sample(instance=[[1.0, 2.0], [3.0, 4.0]]),)), [[1.0, 2.0], [3.0, 4.0]]),
        (
            ServingConfig(example={"picture": "white.png"}, image=ImageSpec(height=2, width=2, mode="L")),
            [[255.0, 255.0], [255.0, 255.0]],
        ),
    ],
    ids=["sample in a file", "sample", "picture"],
)
def test_sample_or_picture_runs_once(tmp_path: Path, config: ServingConfig, expected: list[list[float]]) -> None:
    (tmp_path / ASSETS).mkdir()
    (tmp_path / ASSETS / "walk.csv").write_text("a,b\n1,2\n3,4\n")
    Image.new("L", (4, 4), 255).save(tmp_path / ASSETS / "white.png")
    engine = new_engine(of=signature({"x": tensor("DT_FLOAT", -1, 2, 2)}))
    assert warmed_up(tmp_path, engine, config, independent=False).row_seconds == math.inf
    assert inputs_run(engine) == [[expected]]


def test_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(warm_up, "MAX_SECONDS", 0.01)
    held = Held()

    def hang(inputs: Arrays) -> Any:
        held()
        return echo(inputs)

    assert warmed_up(tmp_path, new_engine(hang), example(1.0)).row_seconds == math.inf
    assert "model version 1: its warm-up takes longer than 0.01 s; it serves meanwhile" in caplog.text
    held.release()


@pytest.mark.parametrize(
    ("largest", "row_seconds", "expected"),
    [(32, 0.002, [32, 16, 8, 4, 2, 1]), (10, 0.002, [10, 8, 4, 2, 1]), (1, 0.002, [1]), (32, 0.5, [4, 2, 1])],
)
def test_sizes_run_from_the_largest_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int, row_seconds: float, expected: list[int]
) -> None:
    monkeypatch.setattr(WarmUp, "_shortest_run", lambda *_: row_seconds)
    engine = new_engine()
    engine.runs_on_caller = False
    warmed_up(tmp_path, engine, example(1.0), largest)
    assert rows_run(engine) == expected


ONE = protobufs.tensor(1, (1,), message(5, b"\0\0\xc0\x3f"))


def write_requests(version: Path, *logs: bytes) -> None:
    (version / ASSETS).mkdir(exist_ok=True)
    (version / ASSETS / warm_up.WARM_UP_FILE).write_bytes(tf_record(*logs))


def test_recorded_requests_are_replayed(tmp_path: Path) -> None:
    """Those of other kinds are skipped."""
    pair = signature({"a": tensor("DT_FLOAT", -1), "b": tensor("DT_FLOAT", -1)})
    engine = FakeEngine({DEFAULT_SIGNATURE: ROWS, "pair": pair}, echo)
    assert not replay(engine, tmp_path)
    others = [message(kind) for kind in (4, 5, 7)]
    write_requests(tmp_path, *others)
    assert not replay(engine, tmp_path)
    write_requests(tmp_path, *others, predict_log("", {"x": ONE}), predict_log("pair", {"a": ONE, "b": ONE}))
    assert replay(engine, tmp_path)
    runs = [(name, {key: array.tolist() for key, array in inputs.items()}) for name, inputs in engine.runs]
    assert runs == [(DEFAULT_SIGNATURE, {"x": [1.5]}), ("pair", {"a": [1.5], "b": [1.5]})]


@pytest.mark.parametrize("kind", [2, 3])
def test_recorded_examples_go_to_the_only_input(tmp_path: Path, kind: int) -> None:
    engine = new_engine(of=signature({"x": tensor("DT_STRING", -1)}))
    write_requests(tmp_path, examples_log(kind, b"one", b"two"), examples_log(kind, b"one", context=b"context "))
    replay(engine, tmp_path)
    assert inputs_run(engine) == [[b"one", b"two"], [b"context one"]]


@pytest.mark.parametrize(
    ("name", "inputs", "words"),
    [
        ("nowhere", {"x": ONE}, "asks for the signature 'nowhere'; there is 'serving_default'"),
        ("", {"y": ONE}, "its inputs are ['y']; expected ['x']"),
        ("", {"x": protobufs.tensor(1, (), message(5, b"\0" * 4))}, "'x' is float32 (); expected DT_FLOAT"),
        ("", {"x": protobufs.tensor(3, (1,), protobufs.whole(7, 1))}, "'x' is int32 (1,); expected DT_FLOAT (-1,)"),
    ],
)
def test_recorded_request_must_fit(tmp_path: Path, name: str, inputs: dict[str, bytes], words: str) -> None:
    engine = new_engine()
    write_requests(tmp_path, message(4), predict_log(name, inputs))
    with pytest.raises(LoadError) as raised:
        replay(engine, tmp_path)
    assert "tf_serving_warmup_requests, record 2" in str(raised.value)
    assert words in str(raised.value)
    assert engine.runs == []


def test_rejected_recorded_request_fails_the_warm_up(tmp_path: Path) -> None:
    write_requests(tmp_path, predict_log("", {"x": ONE}))
    with pytest.raises(LoadError, match=r"record 1: x is above 100"):
        warmed_up(tmp_path, new_engine(reject), ServingConfig())


def write_file(version: Path, content: bytes) -> None:
    write_requests(version)
    (version / ASSETS / warm_up.WARM_UP_FILE).write_bytes(content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not a record", "is no TFRecord file, or ends in the middle of a record"),
        (tf_record(predict_log("", {"x": ONE}))[:-1], "is no TFRecord file, or ends in the middle of a record"),
        (tf_record(b"\xff"), "record 1 is no tensorflow.serving.PredictionLog"),
        (tf_record(b""), "it holds neither a predict_log nor a classify_log nor a regress_log"),
        (tf_record(predict_log("", {"x": protobufs.tensor(1, (2,))})), "a tensor of the shape (2,) holds 0 values"),
        (tf_record(*[message(4)] * (warm_up.MAX_RECORDS + 1)), "has too many records: at most 1000 are taken"),
    ],
)
def test_damaged_file_is_a_load_error(tmp_path: Path, content: bytes, words: str) -> None:
    write_file(tmp_path, content)
    with pytest.raises(LoadError) as raised:
        list(recorded_requests(tmp_path))
    assert words in str(raised.value)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("version")


@given(st.binary(max_size=60), st.booleans())
def test_random_bytes_raise_only_load_errors(version: Path, content: bytes, is_framed: bool) -> None:
    write_file(version, tf_record(content) if is_framed else content)
    with contextlib.suppress(LoadError):
        list(recorded_requests(version))


Cost = Callable[[int], float]


def measure(cost: Cost, max_rows: int = 32, row_seconds: float = 0.01, **engine: Any) -> tuple[int | None, FakeEngine]:
    """The best batch size of an engine whose runs take `cost(rows)` seconds, and the engine."""
    now = 0.0

    def answer(inputs: Arrays) -> Any:
        nonlocal now
        now += cost(len(inputs["x"]))
        return echo(inputs)

    measured = FakeEngine({DEFAULT_SIGNATURE: ROWS}, answer, **engine)
    one = Example(DEFAULT_SIGNATURE, {"x": np.ones(1, np.float32)})
    return best_batch_size(measured, "model version 1", max_rows, row_seconds, one, lambda: now), measured


def half_for_all(rows: int) -> float:
    return 0.005 + 0.005 * rows


def up_to_four(rows: int) -> float:
    return 0.01 * rows * (0.5 if rows >= 4 else 1)


@pytest.mark.parametrize(
    ("cost", "max_rows", "expected"),
    [
        (lambda rows: 0.01 * rows, 32, 1),
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
    assert measure(cost, max_rows)[0] == expected


def test_measuring_stops_at_the_first_size_without_gain(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    _, engine = measure(up_to_four, 100)
    assert rows_run(engine) == [4, 1] * RUNS_PER_BATCH_SIZE + [16, 4] * RUNS_PER_BATCH_SIZE
    assert engine.releases == 1
    assert "a row takes 5.0 ms in a batch of 16, 5.0 in one of 4; batches are of 4 at most" in caplog.text


@pytest.mark.parametrize("held_up", [1, 4])
def test_best_of_several_runs_counts(held_up: int) -> None:
    runs: list[int] = []

    def cost(rows: int) -> float:
        runs.append(rows)
        return half_for_all(rows) * (3 if rows == held_up and runs.count(rows) != 2 else 1)

    assert measure(cost, 4)[0] == 4


@pytest.mark.parametrize(
    ("row_seconds", "runs_on_caller"),
    [
        (warm_up.MIN_MEASURED_SECONDS * 0.9, True),
        (warm_up.MAX_MEASURE_SECONDS / 4, True),
        (math.inf, True),
        (0.01, False),
    ],
    ids=["quick", "slow", "unknown", "with threads of its own"],
)
def test_what_cannot_be_measured_is_not_run(row_seconds: float, runs_on_caller: bool) -> None:
    best, engine = measure(half_for_all, row_seconds=row_seconds, runs_on_caller=runs_on_caller)
    assert (best, engine.runs) == (None, [])


def test_size_is_unknown_when_time_runs_out() -> None:
    best, engine = measure(half_for_all, row_seconds=warm_up.MAX_MEASURE_SECONDS / RUNS_PER_BATCH_SIZE / 24)
    assert (best, engine.releases) == (None, 1)
    assert rows_run(engine) == [4, 1] * RUNS_PER_BATCH_SIZE
