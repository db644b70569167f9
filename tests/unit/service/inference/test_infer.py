from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from service.errors import InvalidRequest
from service.http import Response
from service.inference.batching import BatchLimits
from service.inference.context import Prediction, RequestContext
from service.inference.deadline import Deadline, DeadlineExceeded
from service.inference.health import Health, Tolerance
from service.inference.infer import Inference
from service.inference.loop_watchdog import LoopWatchdog
from service.inference.pace import HELD_UP_SECONDS, Pace
from service.inference.scores import Inferred
from service.inference.version import LoadedVersion, Shadow
from service.metrics.definitions import Metrics
from service.serving_config import ServingConfig
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE
from tests.unit.service.fakes import (
    Arrays,
    FakeEngine,
    any_shape,
    batcher,
    independent,
    loaded_version,
    quick,
    signature,
    tensor,
    tick_batcher,
)
from tests.unit.service.scored import WITHOUT_SCORE, pixels, scored_version
from tests.unit.service.watched_for_drift import honest, watched, watched_version

PAIR = signature({"a": tensor("DT_FLOAT", -1), "b": tensor("DT_FLOAT", -1, 2)})
ANY = signature({"x": any_shape("DT_FLOAT")})
ROWS = signature({"x": tensor("DT_FLOAT", -1)}, {"y": tensor("DT_FLOAT", -1)})
LABELLED = signature({"x": any_shape("DT_FLOAT")}, {"scores": tensor("DT_FLOAT", -1, 2)})
MODEL = {"model": "model", "version": "1"}
RUN = {**MODEL, "engine": "fake", "signature": DEFAULT_SIGNATURE}
X = {"x": np.zeros(1, np.float32)}


def labelled(scores: Array) -> LoadedVersion:
    return loaded_version(LABELLED, lambda _: {"scores": scores}, ServingConfig(labels=("cat", "dog")))


def engine_of(loaded: LoadedVersion) -> FakeEngine:
    assert isinstance(loaded.engine, FakeEngine)
    return loaded.engine


def infer(inference: Inference, loaded: LoadedVersion, inputs: Arrays = X, name: str = DEFAULT_SIGNATURE) -> Inferred:
    return inference.outputs(loaded, name, inputs, RequestContext())


def predictions(loaded: LoadedVersion, *requests: tuple[str, Arrays]) -> Sequence[Prediction]:
    return [
        Prediction(loaded, name, inputs, lambda _: Response(200, b""), RequestContext()) for name, inputs in requests
    ]


def test_inputs_reach_the_engine_and_its_outputs_come_back(inference: Inference, page: CollectorRegistry) -> None:
    loaded = loaded_version(PAIR, lambda inputs: {"y": inputs["a"] + inputs["b"].sum(axis=1)})
    inputs = {"a": np.array([1.0]), "b": np.array([[2.0, 3.0]])}
    assert infer(inference, loaded, inputs).outputs["y"].tolist() == [6.0]
    assert engine_of(loaded).runs == [(DEFAULT_SIGNATURE, inputs)]
    assert page.get_sample_value("serving_inference_duration_seconds_count", RUN) == 1


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"a": (1,)}, "missing input 'b'; expected 'a', 'b'"),
        ({}, "missing input 'a', 'b'; expected 'a', 'b'"),
        ({"a": (1,), "b": (1, 2), "c": (1,)}, "unknown input 'c'; expected 'a', 'b'"),
        ({"a": (1,), "b": (1, 3)}, "input 'b' has the shape [1, 3]; expected [-1, 2] (-1: any size)"),
    ],
)
def test_invalid_inputs_do_not_reach_the_engine(
    inference: Inference, inputs: dict[str, tuple[int, ...]], message: str
) -> None:
    loaded = loaded_version(PAIR)
    with pytest.raises(InvalidRequest) as raised:
        infer(inference, loaded, {name: np.zeros(shape) for name, shape in inputs.items()})
    assert str(raised.value) == message
    assert engine_of(loaded).runs == []


def test_error_of_the_engine_comes_through(inference: Inference, page: CollectorRegistry) -> None:
    def refuse(_: Arrays) -> dict[str, Array]:
        raise InvalidRequest("the model refuses this input")

    with pytest.raises(InvalidRequest, match="the model refuses this input"):
        infer(inference, loaded_version(ANY, refuse))
    assert page.get_sample_value("serving_inference_duration_seconds_count", RUN) is None


# On the event loop


@pytest.mark.parametrize("is_batched", [False, True])
def test_watchdog_watches_what_the_loop_runs(page: CollectorRegistry, is_batched: bool) -> None:
    watchdog = LoopWatchdog()
    inference = Inference(Metrics(page), watchdog)
    watched: list[object] = []

    def run(inputs: Arrays) -> dict[str, Array]:
        watched.append(watchdog.running)
        if inputs["x"][0] < 0:
            raise RuntimeError
        return {"y": inputs["x"]}

    loaded = loaded_version(ROWS, run)
    loaded = replace(loaded, tick_batcher=tick_batcher(loaded.engine) if is_batched else None)
    for value in (1, -1):
        (prediction,) = predictions(loaded, (DEFAULT_SIGNATURE, {"x": np.array([value], np.float32)}))
        inference.infer([prediction], inference.on_loop)
        assert watched[-1] is prediction
        assert watchdog.running is None


@pytest.mark.parametrize("is_batched", [False, True])
def test_slow_version_leaves_the_loop(inference: Inference, monkeypatch: pytest.MonkeyPatch, is_batched: bool) -> None:
    now = 100.0

    def slow(inputs: Arrays) -> dict[str, Array]:
        nonlocal now
        now += 2 * HELD_UP_SECONDS
        return {"y": inputs["x"]}

    monkeypatch.setattr("service.inference.infer.perf_counter", lambda: now)
    monkeypatch.setattr("service.inference.batching.perf_counter", lambda: now)
    loaded = loaded_version(ROWS, slow)
    loaded = replace(loaded, tick_batcher=tick_batcher(loaded.engine) if is_batched else None)
    assert loaded.pace.is_quick
    inference.infer(predictions(loaded, (DEFAULT_SIGNATURE, X)), inference.on_loop)
    assert not loaded.pace.is_quick


# In threads


def test_deadline_that_expires_during_a_run_counts_against_the_version(inference: Inference) -> None:
    changes: list[bool] = []
    context = RequestContext()
    context.deadline = deadline = Deadline.unlimited()

    def expire(inputs: Arrays) -> dict[str, Array]:
        assert deadline.run_began
        deadline.on_expired()
        return {"y": inputs["x"]}

    health = Health("model version 1", Tolerance(1, 0.0), changes.append)
    inference.outputs(replace(loaded_version(ROWS, expire), health=health), DEFAULT_SIGNATURE, X, context)
    # It is healthy again when the run has ended.
    assert changes == [False, True]
    assert not deadline.run_began


# More rows than run together


def batched_version(answer: Callable[[Arrays], dict[str, Array]]) -> LoadedVersion:
    """One that runs four rows together at most."""
    loaded = loaded_version(ROWS, answer)
    limits = BatchLimits(max_batch_size=4, timeout_seconds=0.0)
    independence = independent(loaded.engine.signatures)
    in_threads = batcher(loaded.engine, 4)
    return replace(loaded, limits=limits, batcher=in_threads, independence=independence, pace=Pace())


def runs(loaded: LoadedVersion) -> list[list[float]]:
    return [inputs["x"].tolist() for _, inputs in engine_of(loaded).runs]


NINE = {"x": np.arange(9.0)}


def test_many_rows_run_in_parts(inference: Inference, page: CollectorRegistry) -> None:
    loaded = batched_version(lambda inputs: {"y": inputs["x"] + 1})
    context = RequestContext()
    outputs = inference.outputs(loaded, DEFAULT_SIGNATURE, NINE, context).outputs
    assert outputs["y"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert runs(loaded) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert context.batch_size == 4
    assert context.run_began > 0
    assert 0 < context.run_seconds <= perf_counter() - context.run_began
    assert page.get_sample_value("serving_inference_duration_seconds_count", RUN) == 1


@pytest.mark.parametrize("cancels", [True, False])
def test_no_more_parts_run_after_an_error(inference: Inference, cancels: bool) -> None:
    context = RequestContext()
    context.deadline = deadline = Deadline.unlimited()

    def answer(inputs: Arrays) -> dict[str, Array]:
        if not cancels:
            raise InvalidRequest("no")
        deadline.cancel()
        return {"y": inputs["x"]}

    loaded = batched_version(answer)
    with pytest.raises(DeadlineExceeded if cancels else InvalidRequest):
        inference.outputs(loaded, DEFAULT_SIGNATURE, NINE, context)
    assert runs(loaded) == [[0, 1, 2, 3]]


def test_outputs_without_a_row_for_each_part_are_of_all_rows(inference: Inference) -> None:
    loaded = batched_version(lambda inputs: {"y": inputs["x"].sum(keepdims=True)})
    assert infer(inference, loaded, NINE).outputs["y"].tolist() == [36]
    assert loaded.independence.signatures == set()


def test_dependent_rows_run_all_at_once(inference: Inference) -> None:
    loaded = batched_version(lambda inputs: {"y": inputs["x"]})
    loaded.independence.declare(())
    infer(inference, loaded, NINE)
    assert runs(loaded) == [list(range(9))]


def test_unbatched_version_runs_all_rows_at_once(inference: Inference) -> None:
    loaded = replace(batched_version(lambda inputs: {"y": inputs["x"]}), pace=quick())
    infer(inference, loaded, NINE)
    assert runs(loaded) == [list(range(9))]


# Predictions by label


def test_predictions_are_counted_by_their_first_label(inference: Inference, page: CollectorRegistry) -> None:
    infer(inference, labelled(np.array([[0.9, 0.1], [0.25, 0.75], [0.6, 0.4]])))
    assert page.get_sample_value("serving_prediction_total", {**MODEL, "label": "cat"}) == 2
    assert page.get_sample_value("serving_prediction_total", {**MODEL, "label": "dog"}) == 1
    assert page.get_sample_value("serving_prediction_confidence_count", MODEL) == 3
    assert page.get_sample_value("serving_prediction_confidence_sum", MODEL) == 0.9 + 0.75 + 0.6


def test_nan_does_not_spoil_the_confidence(inference: Inference, page: CollectorRegistry) -> None:
    infer(inference, labelled(np.array([[np.nan, 0.25], [np.nan, np.nan], [0.75, 0.25]])))
    total = page.get_sample_value("serving_prediction_confidence_sum", MODEL)
    assert total is not None
    assert np.isfinite(total)


@pytest.mark.parametrize("shape", [(0, 2), (1, 3), (2,), (), (1, 1, 2)])
def test_scores_of_another_shape_are_not_counted(
    inference: Inference, page: CollectorRegistry, shape: tuple[int, ...]
) -> None:
    shadow = Shadow(replace(labelled(np.zeros(shape)), version=2), 1.0)
    assert infer(inference, replace(labelled(np.zeros(shape)), shadow=shadow)).outputs["scores"].shape == shape
    inference.mirror.wait()
    assert not page.get_sample_value("serving_prediction_confidence_count", MODEL)
    assert page.get_sample_value("serving_shadow_failed_total", MODEL | {"version": "2"}) in (None, 0)


def test_no_prediction_is_counted_without_labels(inference: Inference, page: CollectorRegistry) -> None:
    infer(inference, loaded_version(ANY))
    assert page.get_sample_value("serving_prediction_confidence_count", MODEL) is None


# Shadows


def test_shadow_is_compared_and_counted_by_its_version(inference: Inference, page: CollectorRegistry) -> None:
    cat, dog = (np.array([row], np.float32) for row in ([0.9, 0.1], [0.1, 0.9]))
    shadow = Shadow(replace(labelled(dog), version=2), 1.0)
    for scores in (cat, dog, dog):
        assert infer(inference, replace(labelled(scores), shadow=shadow)).outputs["scores"] is scores
    inference.mirror.wait()

    def compared(agrees: str) -> float | None:
        return page.get_sample_value("serving_shadow_total", {"model": "model", "version": "2", "agrees": agrees})

    assert (compared("true"), compared("false")) == (2, 1)


def test_failed_shadow_fails_no_request(inference: Inference, page: CollectorRegistry) -> None:
    def fail(_inputs: Arrays) -> dict[str, Array]:
        raise MemoryError

    shadow = Shadow(loaded_version(LABELLED, fail), 1.0)
    infer(inference, replace(labelled(np.array([[0.9, 0.1]])), shadow=shadow))
    inference.mirror.wait()
    assert page.get_sample_value("serving_shadow_failed_total", MODEL) == 1


def test_drift_of_a_shadow_is_its_own(inference: Inference, tmp_path: Path) -> None:
    shadow = watched_version(tmp_path / "2", number=2)
    loaded = replace(watched_version(tmp_path / "1"), shadow=Shadow(shadow, 1.0))
    infer(inference, shadow, {"x": honest(10)})
    infer(inference, loaded, {"x": honest(40)})
    inference.mirror.wait()
    assert [one.drift.now().rows for one in (loaded, shadow) if one.drift] == [40, 50]


# Outlier scores


def ran(loaded: LoadedVersion) -> list[str]:
    return [name for name, _ in engine_of(loaded).runs]


@pytest.mark.parametrize("batching", ["none", "threads"])
def test_score_is_no_output_of_the_default_signature(inference: Inference, batching: str) -> None:
    loaded = scored_version(batching=batching)
    inferred = infer(inference, loaded, pixels(0, 255))
    assert ran(loaded) == ["scored"]
    assert {name: array.tolist() for name, array in inferred.outputs.items()} == {"probabilities": [[1, 0], [0, 1]]}
    assert inferred.outlier_scores == [0.0, 255 / 128]


def test_scored_signature_has_the_score_among_its_outputs(inference: Inference) -> None:
    inferred = infer(inference, scored_version(), pixels(64), "scored")
    assert inferred.outputs["outlier_score"].tolist() == [64.0]
    assert inferred.outlier_scores == [0.5]


def test_version_without_a_score(inference: Inference, page: CollectorRegistry) -> None:
    loaded = scored_version(WITHOUT_SCORE)
    assert infer(inference, loaded, pixels(0)).outlier_scores == ()
    assert ran(loaded) == [DEFAULT_SIGNATURE]
    assert page.get_sample_value("serving_outlier_score_count", MODEL) is None


@pytest.mark.parametrize(("batching", "count"), [("none", 3), ("ticks", 1)])
def test_each_request_of_a_tick_has_its_own_scores(
    inference: Inference, page: CollectorRegistry, batching: str, count: int
) -> None:
    loaded = scored_version(batching=batching)
    requests = (DEFAULT_SIGNATURE, pixels(0, 64)), ("scored", pixels(128)), (DEFAULT_SIGNATURE, pixels(192))
    scores, outputs = [], []
    for outcome in inference.infer(predictions(loaded, *requests), inference.on_loop):
        assert isinstance(outcome, Inferred)
        scores.append(outcome.outlier_scores)
        outputs.append(len(outcome.outputs))
    assert (scores, outputs) == ([[0, 0.5], [1], [1.5]], [1, 2, 1])
    # Rows for either signature share a batch.
    assert ran(loaded) == ["scored"] * count
    assert page.get_sample_value("serving_outlier_score_count", MODEL) == 4


def test_score_of_a_shadow_is_its_own(inference: Inference, page: CollectorRegistry) -> None:
    shadow = scored_version(version=2)
    for config in (WITHOUT_SCORE, shadow.config):
        infer(inference, replace(scored_version(config), shadow=Shadow(shadow, 1.0)), pixels(0))
    inference.mirror.wait()
    second = {"model": "model", "version": "2"}
    assert page.get_sample_value("serving_shadow_total", {**second, "agrees": "true"}) == 2
    assert page.get_sample_value("serving_outlier_score_count", second) == 2


def test_default_and_scored_signature_drift_together(inference: Inference, tmp_path: Path) -> None:
    loaded = scored_version()
    deciles = {"edges": [64.0, 192.0], "shares": [0.25, 0.5, 0.25]}
    reference = {"rows": 1_000, "inputs": {f"pixels[{place}]": deciles for place in range(4)}}
    loaded = replace(loaded, drift=watched(tmp_path, loaded, reference))
    inference.infer(
        predictions(loaded, *((name, pixels(0, 255)) for name in (DEFAULT_SIGNATURE, "scored"))), inference.on_loop
    )
    assert loaded.drift is not None
    assert loaded.drift.now().rows == 4
