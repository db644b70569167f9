from collections.abc import Callable
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
from service.inference.infer import Inference
from service.inference.pace import Pace
from service.inference.version import LoadedVersion, Shadow
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
)
from tests.unit.service.scored import pixels, scored_version
from tests.unit.service.watched_for_drift import honest, watched, watched_version

PAIR = signature({"a": tensor("DT_FLOAT", -1), "b": tensor("DT_FLOAT", -1, 2)})
LABELLED = signature({"x": any_shape("DT_FLOAT")}, {"scores": tensor("DT_FLOAT", -1, 2)})
MODEL = {"model": "model", "version": "1"}


def labelled(scores: Array) -> LoadedVersion:
    return loaded_version(LABELLED, lambda _: {"scores": scores}, ServingConfig(labels=("cat", "dog")))


def test_the_engine_gets_the_inputs_and_its_outputs_come_back(inference: Inference) -> None:
    def add(inputs: Arrays) -> dict[str, Array]:
        return {"y": inputs["a"] + inputs["b"].sum(axis=1)}

    loaded = loaded_version(PAIR, add)
    inputs = {"a": np.array([1.0]), "b": np.array([[2.0, 3.0]])}
    assert inference.outputs(loaded, "serving_default", inputs, RequestContext()).outputs["y"].tolist() == [6.0]
    assert isinstance(loaded.engine, FakeEngine)
    assert loaded.engine.asked == [("serving_default", inputs)]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"a": (1,)}, "missing input 'b'; expected 'a', 'b'"),
        ({}, "missing input 'a', 'b'; expected 'a', 'b'"),
        ({"a": (1,), "b": (1, 2), "c": (1,)}, "unknown input 'c'; expected 'a', 'b'"),
        ({"a": (1,), "b": (1, 3)}, "input 'b' has the shape [1, 3]; expected [-1, 2] (-1: any size)"),
    ],
)
def test_inputs_that_the_signature_does_not_take_never_reach_the_engine(
    inference: Inference, inputs: dict[str, tuple[int, ...]], message: str
) -> None:
    loaded = loaded_version(PAIR)
    with pytest.raises(InvalidRequest) as raised:
        inference.outputs(
            loaded, "serving_default", {name: np.zeros(shape) for name, shape in inputs.items()}, RequestContext()
        )
    assert str(raised.value) == message
    assert isinstance(loaded.engine, FakeEngine)
    assert loaded.engine.asked == []


def test_an_unknown_signature_never_reaches_the_engine(inference: Inference) -> None:
    with pytest.raises(InvalidRequest, match='Serving signature key "other" not found'):
        inference.outputs(loaded_version(PAIR), "other", {}, RequestContext())


def test_an_inference_is_timed_by_model_version_and_engine(inference: Inference, page: CollectorRegistry) -> None:
    loaded = loaded_version(signature({"x": any_shape("DT_FLOAT")}))
    for _ in range(2):
        inference.outputs(loaded, "serving_default", {"x": np.zeros(1)}, RequestContext())
    assert page.get_sample_value("serving_inference_duration_seconds_count", {**MODEL, "engine": "fake"}) == 2


ROWS = signature({"x": tensor("DT_FLOAT", -1)}, {"y": tensor("DT_FLOAT", -1)})


def batched_version(answer: Callable[[Arrays], dict[str, Array]]) -> LoadedVersion:
    """One whose rows are run together, four at most."""
    loaded = loaded_version(ROWS, answer)
    limits = BatchLimits(max_batch_size=4, timeout_seconds=0.0)
    independence = independent(loaded.engine.signatures)
    in_threads = batcher(loaded.engine, 4)
    return replace(loaded, limits=limits, batcher=in_threads, independence=independence, pace=Pace())


def asked_rows(loaded: LoadedVersion) -> list[list[float]]:
    assert isinstance(loaded.engine, FakeEngine)
    return [inputs["x"].tolist() for _, inputs in loaded.engine.asked]


def test_a_request_with_more_rows_than_are_run_together_is_run_in_parts(
    inference: Inference, page: CollectorRegistry
) -> None:
    loaded = batched_version(lambda inputs: {"y": inputs["x"] + 1})
    context = RequestContext()
    outputs = inference.outputs(loaded, "serving_default", {"x": np.arange(9.0)}, context).outputs
    assert outputs["y"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert asked_rows(loaded) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert context.batch_size == 4
    assert context.run_began > 0
    assert 0 < context.run_seconds <= perf_counter() - context.run_began
    assert page.get_sample_value("serving_inference_duration_seconds_count", {**MODEL, "engine": "fake"}) == 1


def test_nothing_is_run_for_the_rest_of_a_request_once_nobody_waits_for_it(inference: Inference) -> None:
    context = RequestContext()
    context.deadline = deadline = Deadline.unlimited()

    def answer(inputs: Arrays) -> dict[str, Array]:
        deadline.cancel()
        return {"y": inputs["x"]}

    loaded = batched_version(answer)
    with pytest.raises(DeadlineExceeded):
        inference.outputs(loaded, "serving_default", {"x": np.arange(9.0)}, context)
    assert asked_rows(loaded) == [[0, 1, 2, 3]]


def test_a_model_that_does_not_answer_row_by_row_sees_all_rows_at_once(inference: Inference) -> None:
    loaded = batched_version(lambda inputs: {"y": inputs["x"].sum(keepdims=True)})
    outputs = inference.outputs(loaded, "serving_default", {"x": np.arange(9.0)}, RequestContext()).outputs
    assert outputs["y"].tolist() == [36]
    assert loaded.independence.signatures == set()


def test_rows_that_are_not_said_to_be_independent_are_run_all_at_once(inference: Inference) -> None:
    loaded = batched_version(lambda inputs: {"y": inputs["x"] / inputs["x"].sum()})
    loaded.independence.declare(())
    outputs = inference.outputs(loaded, "serving_default", {"x": np.arange(9.0)}, RequestContext()).outputs
    assert outputs["y"].sum() == pytest.approx(1)


def test_a_version_that_is_never_run_in_batches_sees_all_rows_at_once(inference: Inference) -> None:
    loaded = replace(batched_version(lambda inputs: {"y": inputs["x"]}), pace=quick())
    inference.outputs(loaded, "serving_default", {"x": np.arange(9.0)}, RequestContext())
    assert asked_rows(loaded) == [list(range(9))]


def test_predictions_are_counted_by_the_label_that_comes_first(inference: Inference, page: CollectorRegistry) -> None:
    scores = np.array([[0.9, 0.1], [0.25, 0.75], [0.6, 0.4]])
    inference.outputs(labelled(scores), "serving_default", {"x": np.zeros(3)}, RequestContext())
    assert page.get_sample_value("serving_prediction_total", {**MODEL, "label": "cat"}) == 2
    assert page.get_sample_value("serving_prediction_total", {**MODEL, "label": "dog"}) == 1
    assert page.get_sample_value("serving_prediction_confidence_count", MODEL) == 3
    assert page.get_sample_value("serving_prediction_confidence_sum", MODEL) == 0.9 + 0.75 + 0.6


def test_a_model_that_answers_nan_does_not_spoil_the_metrics(inference: Inference, page: CollectorRegistry) -> None:
    nan = labelled(np.array([[np.nan, 0.25], [np.nan, np.nan], [0.75, 0.25]]))
    inference.outputs(nan, "serving_default", {"x": np.zeros(3)}, RequestContext())
    total = page.get_sample_value("serving_prediction_confidence_sum", MODEL)
    assert total is not None
    assert np.isfinite(total)


@pytest.mark.parametrize("shape", [(0, 2), (1, 3), (2,), (), (1, 1, 2)])
def test_scores_without_rows_or_of_another_shape_than_declared_are_answered_and_not_counted(
    inference: Inference, page: CollectorRegistry, shape: tuple[int, ...]
) -> None:
    shadow = Shadow(replace(labelled(np.zeros(shape)), version=2), 1.0)
    loaded = replace(labelled(np.zeros(shape)), shadow=shadow)
    inferred = inference.outputs(loaded, "serving_default", {"x": np.zeros(1, np.float32)}, RequestContext())
    inference.mirror.wait()
    assert inferred.outputs["scores"].shape == shape
    assert not page.get_sample_value("serving_prediction_confidence_count", MODEL)
    assert page.get_sample_value("serving_shadow_failed_total", MODEL | {"version": "2"}) in (None, 0)


def test_without_labels_no_prediction_is_counted(inference: Inference, page: CollectorRegistry) -> None:
    inference.outputs(
        loaded_version(signature({"x": any_shape("DT_FLOAT")})), "serving_default", {"x": np.zeros(1)}, RequestContext()
    )
    assert page.get_sample_value("serving_prediction_confidence_count", MODEL) is None


def test_what_the_engine_raises_comes_through(inference: Inference, page: CollectorRegistry) -> None:
    def refuse(_: Arrays) -> dict[str, Array]:
        raise InvalidRequest("the model refuses this input")

    loaded = loaded_version(signature({"x": any_shape("DT_FLOAT")}), refuse)
    with pytest.raises(InvalidRequest, match="the model refuses this input"):
        inference.outputs(loaded, "serving_default", {"x": np.zeros(1)}, RequestContext())
    assert page.get_sample_value("serving_inference_duration_seconds_count", {**MODEL, "engine": "fake"}) is None


def test_a_shadow_gets_a_copy_and_whether_it_agrees_is_counted_by_its_version(
    inference: Inference, page: CollectorRegistry
) -> None:
    cat, dog = (np.array([row], np.float32) for row in ([0.9, 0.1], [0.1, 0.9]))
    shadow = replace(labelled(dog), version=2)
    inputs = {"x": np.zeros(1, np.float32)}
    for scores in (cat, dog, dog):
        inferred = inference.outputs(
            replace(labelled(scores), shadow=Shadow(shadow, 1.0)), "serving_default", inputs, RequestContext()
        )
        assert inferred.outputs["scores"] is scores
    inference.mirror.wait()

    def compared(agrees: str) -> float | None:
        return page.get_sample_value("serving_shadow_total", {"model": "model", "version": "2", "agrees": agrees})

    assert (compared("true"), compared("false")) == (2, 1)


def test_a_shadow_that_fails_fails_no_request(inference: Inference, page: CollectorRegistry) -> None:
    def refuse(_inputs: Arrays) -> dict[str, Array]:
        raise MemoryError

    answering = replace(labelled(np.array([[0.9, 0.1]])), shadow=Shadow(loaded_version(LABELLED, refuse), 1.0))
    inference.outputs(answering, "serving_default", {"x": np.zeros(1, np.float32)}, RequestContext())
    inference.mirror.wait()
    assert page.get_sample_value("serving_shadow_failed_total", MODEL) == 1


def test_what_only_a_shadow_runs_drifts_with_the_shadow(inference: Inference, tmp_path: Path) -> None:
    shadow = watched_version(tmp_path / "2", number=2)
    answering = replace(watched_version(tmp_path / "1"), shadow=Shadow(shadow, 1.0))
    inference.outputs(shadow, DEFAULT_SIGNATURE, {"x": honest(10)}, RequestContext())
    inference.outputs(answering, DEFAULT_SIGNATURE, {"x": honest(40)}, RequestContext())
    inference.mirror.wait()
    assert [loaded.drift.now().rows for loaded in (answering, shadow) if loaded.drift] == [40, 50]


@pytest.mark.parametrize("batching", ["none", "turns"])
def test_requests_for_the_default_and_for_the_scored_signature_drift_together(
    inference: Inference, tmp_path: Path, batching: str
) -> None:
    loaded = scored_version(batching=batching)
    deciles = {"edges": [64.0, 192.0], "shares": [0.25, 0.5, 0.25]}
    reference = {"rows": 1_000, "inputs": {f"pixels[{place}]": deciles for place in range(4)}}
    loaded = replace(loaded, drift=watched(tmp_path, loaded, reference))
    inference.infer(
        [
            Prediction(loaded, name, pixels(0, 255), lambda _: Response(200, b""), RequestContext())
            for name in (DEFAULT_SIGNATURE, "scored")
        ],
        inference.on_loop,
    )
    assert loaded.drift is not None
    assert loaded.drift.now().rows == 4
