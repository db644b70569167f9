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
    echo,
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
MODEL, SECOND = {"model": "model", "version": "1"}, {"model": "model", "version": "2"}
X, NINE = {"x": np.zeros(1, np.float32)}, {"x": np.arange(9.0)}


def labelled(scores: object, shadow: LoadedVersion | None = None) -> LoadedVersion:
    answer = {"scores": np.array(scores)}
    loaded = loaded_version(LABELLED, lambda _: answer, ServingConfig(labels=("cat", "dog")))
    return replace(loaded, shadow=Shadow(shadow, 1.0) if shadow else None)


def runs(loaded: LoadedVersion) -> list[tuple[str, Arrays]]:
    assert isinstance(loaded.engine, FakeEngine)
    return loaded.engine.runs


def infer(inference: Inference, loaded: LoadedVersion, inputs: Arrays = X, name: str = DEFAULT_SIGNATURE) -> Inferred:
    return inference.outputs(loaded, name, inputs, RequestContext())


def predictions(loaded: LoadedVersion, *requests: tuple[str, Arrays]) -> Sequence[Prediction]:
    return [
        Prediction(loaded, name, inputs, lambda _: Response(200, b""), RequestContext()) for name, inputs in requests
    ]


def run_count(page: CollectorRegistry) -> float | None:
    labels = {**MODEL, "engine": "fake", "signature": DEFAULT_SIGNATURE}
    return page.get_sample_value("serving_inference_duration_seconds_count", labels)


def test_inputs_reach_the_engine_and_its_outputs_come_back(inference: Inference, page: CollectorRegistry) -> None:
    loaded = loaded_version(PAIR, lambda inputs: {"y": inputs["a"] + inputs["b"].sum(axis=1)})
    inputs = {"a": np.array([1.0]), "b": np.array([[2.0, 3.0]])}
    assert infer(inference, loaded, inputs).outputs["y"].tolist() == [6.0]
    assert (runs(loaded), run_count(page)) == ([(DEFAULT_SIGNATURE, inputs)], 1)
    # Nor is a prediction counted without labels.
    assert page.get_sample_value("serving_prediction_confidence_count", MODEL) is None


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
    assert (str(raised.value), runs(loaded)) == (message, [])


def test_error_of_the_engine_comes_through(inference: Inference, page: CollectorRegistry) -> None:
    def refuse(_: Arrays) -> dict[str, Array]:
        raise InvalidRequest("the model refuses this input")

    with pytest.raises(InvalidRequest, match="the model refuses this input"):
        infer(inference, loaded_version(ANY, refuse))
    assert run_count(page) is None


@pytest.mark.parametrize("is_batched", [False, True])
def test_watchdog_watches_what_the_loop_runs_and_a_slow_version_leaves_it(
    page: CollectorRegistry, monkeypatch: pytest.MonkeyPatch, is_batched: bool
) -> None:
    watchdog, watched, now = LoopWatchdog(), [], 100.0
    inference = Inference(Metrics(page), watchdog)

    def run(inputs: Arrays) -> dict[str, Array]:
        nonlocal now
        watched.append(watchdog.running)
        if (value := inputs["x"][0]) < 0:
            raise RuntimeError
        now += value
        return {"y": inputs["x"]}

    for module in ("infer", "batching"):
        monkeypatch.setattr(f"service.inference.{module}.perf_counter", lambda: now)
    loaded = loaded_version(ROWS, run)
    loaded = replace(loaded, tick_batcher=tick_batcher(loaded.engine) if is_batched else None)
    for value in (0, -1, 2 * HELD_UP_SECONDS):
        assert loaded.pace.is_quick
        (prediction,) = predictions(loaded, (DEFAULT_SIGNATURE, {"x": np.array([value], np.float32)}))
        inference.infer([prediction], inference.on_loop)
        assert (watched[-1], watchdog.running) == (prediction, None)
    assert not loaded.pace.is_quick


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
    assert (changes, deadline.run_began) == ([False, True], 0)


def batched_version(answer: Callable[[Arrays], dict[str, Array]] = echo) -> LoadedVersion:
    """One that runs four rows together at most."""
    loaded = loaded_version(ROWS, answer)
    limits = BatchLimits(max_batch_size=4, timeout_seconds=0.0)
    independence = independent(loaded.engine.signatures)
    return replace(loaded, limits=limits, batcher=batcher(loaded.engine, 4), independence=independence, pace=Pace())


def rows(loaded: LoadedVersion) -> list[list[float]]:
    return [inputs["x"].tolist() for _, inputs in runs(loaded)]


def test_many_rows_run_in_parts(inference: Inference, page: CollectorRegistry) -> None:
    loaded = batched_version(lambda inputs: {"y": inputs["x"] + 1})
    context = RequestContext()
    outputs = inference.outputs(loaded, DEFAULT_SIGNATURE, NINE, context).outputs
    assert outputs["y"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert rows(loaded) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert (context.batch_size, run_count(page)) == (4, 1)
    assert context.run_began > 0
    assert 0 < context.run_seconds <= perf_counter() - context.run_began


@pytest.mark.parametrize("error", [DeadlineExceeded, InvalidRequest])
def test_no_more_parts_run_after_an_error(inference: Inference, error: type[Exception]) -> None:
    context = RequestContext()
    context.deadline = deadline = Deadline.unlimited()

    def answer(inputs: Arrays) -> dict[str, Array]:
        if error is InvalidRequest:
            raise error
        deadline.cancel()
        return {"y": inputs["x"]}

    loaded = batched_version(answer)
    with pytest.raises(error):
        inference.outputs(loaded, DEFAULT_SIGNATURE, NINE, context)
    assert rows(loaded) == [[0, 1, 2, 3]]


def test_outputs_without_a_row_for_each_part_are_of_all_rows(inference: Inference) -> None:
    loaded = batched_version(lambda inputs: {"y": inputs["x"].sum(keepdims=True)})
    assert infer(inference, loaded, NINE).outputs["y"].tolist() == [36]
    assert loaded.independence.signatures == set()


def test_dependent_rows_and_those_of_an_unbatched_version_run_all_at_once(inference: Inference) -> None:
    dependent, unbatched = batched_version(), replace(batched_version(), pace=quick())
    dependent.independence.declare(())
    for loaded in (dependent, unbatched):
        infer(inference, loaded, NINE)
        assert rows(loaded) == [list(range(9))]


def test_predictions_are_counted_by_their_first_label(inference: Inference, page: CollectorRegistry) -> None:
    infer(inference, labelled([[0.9, 0.1], [0.25, 0.75], [0.6, 0.4]]))
    for label, count in (("cat", 2), ("dog", 1)):
        assert page.get_sample_value("serving_prediction_total", {**MODEL, "label": label}) == count


@pytest.mark.parametrize("shape", [(0, 2), (1, 3), (2,), (), (1, 1, 2)])
def test_scores_of_another_shape_are_not_counted(
    inference: Inference, page: CollectorRegistry, shape: tuple[int, ...]
) -> None:
    scores = np.zeros(shape)
    loaded = labelled(scores, replace(labelled(scores), version=2))
    assert infer(inference, loaded).outputs["scores"].shape == shape
    inference.mirror.wait()
    assert not page.get_sample_value("serving_prediction_confidence_count", MODEL)
    assert not page.get_sample_value("serving_shadow_failed_total", SECOND)


def test_shadow_is_compared_and_counted_by_its_version(inference: Inference, page: CollectorRegistry) -> None:
    cat, dog = [[0.9, 0.1]], [[0.1, 0.9]]
    for scores in (cat, dog, dog):
        loaded = labelled(scores, replace(labelled(dog), version=2))
        assert infer(inference, loaded).outputs["scores"].tolist() == scores
    inference.mirror.wait()
    for agrees, count in (("true", 2), ("false", 1)):
        assert page.get_sample_value("serving_shadow_total", {**SECOND, "agrees": agrees}) == count


def test_failed_shadow_fails_no_request(inference: Inference, page: CollectorRegistry) -> None:
    def fail(_inputs: Arrays) -> dict[str, Array]:
        raise MemoryError

    infer(inference, labelled([[0.9, 0.1]], loaded_version(LABELLED, fail, version=2)))
    inference.mirror.wait()
    assert page.get_sample_value("serving_shadow_failed_total", SECOND) == 1


def test_drift_of_a_shadow_is_its_own(inference: Inference, tmp_path: Path) -> None:
    shadow = watched_version(tmp_path / "2", number=2)
    loaded = replace(watched_version(tmp_path / "1"), shadow=Shadow(shadow, 1.0))
    infer(inference, shadow, {"x": honest(10)})
    infer(inference, loaded, {"x": honest(40)})
    inference.mirror.wait()
    assert [one.drift.now().rows for one in (loaded, shadow) if one.drift] == [40, 50]


@pytest.mark.parametrize("batching", ["none", "threads"])
def test_score_is_no_output_of_the_default_signature(inference: Inference, batching: str) -> None:
    loaded = scored_version(batching=batching)
    inferred = infer(inference, loaded, pixels(0, 255))
    assert [name for name, _ in runs(loaded)] == ["scored"]
    assert {name: array.tolist() for name, array in inferred.outputs.items()} == {"probabilities": [[1, 0], [0, 1]]}
    assert inferred.outlier_scores == [0.0, 255 / 128]


def test_scored_signature_has_the_score_among_its_outputs(inference: Inference) -> None:
    inferred = infer(inference, scored_version(), pixels(64), "scored")
    assert (inferred.outputs["outlier_score"].tolist(), inferred.outlier_scores) == ([64.0], [0.5])


def test_version_without_a_score(inference: Inference, page: CollectorRegistry) -> None:
    loaded = scored_version(WITHOUT_SCORE)
    assert infer(inference, loaded, pixels(0)).outlier_scores == ()
    assert [name for name, _ in runs(loaded)] == [DEFAULT_SIGNATURE]
    assert page.get_sample_value("serving_outlier_score_count", MODEL) is None


@pytest.mark.parametrize(("batching", "count"), [("none", 3), ("ticks", 1)])
def test_each_request_of_a_tick_has_its_own_scores(
    inference: Inference, page: CollectorRegistry, batching: str, count: int
) -> None:
    loaded = scored_version(batching=batching)
    requests = (DEFAULT_SIGNATURE, pixels(0, 64)), ("scored", pixels(128)), (DEFAULT_SIGNATURE, pixels(192))
    outcomes = inference.infer(predictions(loaded, *requests), inference.on_loop)
    found = [(one.outlier_scores, len(one.outputs)) for one in outcomes if isinstance(one, Inferred)]
    assert found == [([0, 0.5], 1), ([1], 2), ([1.5], 1)]
    # Rows for either signature share a batch.
    assert [name for name, _ in runs(loaded)] == ["scored"] * count
    assert page.get_sample_value("serving_outlier_score_count", MODEL) == 4


def test_score_of_a_shadow_is_its_own(inference: Inference, page: CollectorRegistry) -> None:
    shadow = scored_version(version=2)
    for config in (WITHOUT_SCORE, shadow.config):
        infer(inference, replace(scored_version(config), shadow=Shadow(shadow, 1.0)), pixels(0))
    inference.mirror.wait()
    assert page.get_sample_value("serving_shadow_total", {**SECOND, "agrees": "true"}) == 2
    assert page.get_sample_value("serving_outlier_score_count", SECOND) == 2


def test_default_and_scored_signature_drift_together(inference: Inference, tmp_path: Path) -> None:
    loaded = scored_version()
    deciles = {"edges": [64.0, 192.0], "shares": [0.25, 0.5, 0.25]}
    reference = {"rows": 1_000, "inputs": {f"pixels[{place}]": deciles for place in range(4)}}
    drift = watched(tmp_path, loaded, reference)
    requests = ((name, pixels(0, 255)) for name in (DEFAULT_SIGNATURE, "scored"))
    inference.infer(predictions(replace(loaded, drift=drift), *requests), inference.on_loop)
    assert drift.now().rows == 4
