"""How unlike its training data a version finds a request: told beside the answer, never in it."""

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from math import inf, nan
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry
from werkzeug.test import TestResponse

from service.http import Response
from service.inference.context import Prediction, RequestContext
from service.inference.infer import Inference
from service.inference.scores import MAX_HEADER_SCORES, outlier_score_headers, relative_scores
from service.inference.version import LoadedVersion, Shadow
from service.tensors.signature import DEFAULT_SIGNATURE
from tests.unit.service.fakes import FakeEngine, FakeService, make_available
from tests.unit.service.scored import WITHOUT_SCORE, pixels, scored_version

BATCHINGS = ["none", "threads", "turns"]
COUNT = 'serving_outlier_score_count{model="model",version="1"}'
PREDICT, CLASSIFY, INFER = "/v1/models/model:predict", "/v1/models/model:classify", "/v2/models/model/infer"


def asked(loaded: LoadedVersion) -> list[str]:
    assert isinstance(loaded.engine, FakeEngine)
    return [name for name, _ in loaded.engine.asked]


@pytest.mark.parametrize("batching", ["none", "threads"])
def test_the_default_signature_is_answered_by_the_scored_one_without_the_score(
    inference: Inference, batching: str
) -> None:
    loaded = scored_version(batching=batching)
    inferred = inference.outputs(loaded, DEFAULT_SIGNATURE, pixels(0, 255), RequestContext())
    assert asked(loaded) == ["scored"]
    assert {name: array.tolist() for name, array in inferred.outputs.items()} == {"probabilities": [[1, 0], [0, 1]]}
    assert inferred.outlier_scores == [0.0, 255 / 128]


def test_who_asks_for_the_scored_signature_gets_the_score_among_the_outputs(inference: Inference) -> None:
    inferred = inference.outputs(scored_version(), "scored", pixels(64), RequestContext())
    assert inferred.outputs["outlier_score"].tolist() == [64.0]
    assert inferred.outlier_scores == [0.5]


def test_a_version_without_a_score_is_asked_for_what_the_client_asks(
    inference: Inference, page: CollectorRegistry
) -> None:
    loaded = scored_version(WITHOUT_SCORE)
    assert inference.outputs(loaded, DEFAULT_SIGNATURE, pixels(0), RequestContext()).outlier_scores == ()
    assert asked(loaded) == [DEFAULT_SIGNATURE]
    assert page.get_sample_value("serving_outlier_score_count", {"model": "model", "version": "1"}) is None


@pytest.mark.parametrize("batching", ["none", "turns"])
def test_of_what_comes_together_each_gets_its_own_score(
    inference: Inference, page: CollectorRegistry, batching: str
) -> None:
    loaded = scored_version(batching=batching)
    predictions = [
        Prediction(loaded, name, pixels(*levels), lambda _: Response(200, b""), RequestContext())
        for name, levels in ((DEFAULT_SIGNATURE, (0, 64)), ("scored", (128,)), (DEFAULT_SIGNATURE, (192,)))
    ]
    outcomes: list[Any] = inference.infer(predictions, inference.on_loop)
    assert [outcome.outlier_scores for outcome in outcomes] == [[0, 0.5], [1], [1.5]]
    assert [len(outcome.outputs) for outcome in outcomes] == [1, 2, 1]
    # Rows for either signature share a batch.
    assert asked(loaded) == ["scored"] * (1 if batching == "turns" else 3)
    assert page.get_sample_value("serving_outlier_score_count", {"model": "model", "version": "1"}) == 4


def test_shadows_are_compared_by_their_answers_and_their_scores_are_counted_as_theirs(
    inference: Inference, page: CollectorRegistry
) -> None:
    shadow = scored_version(version=2)
    for config in (WITHOUT_SCORE, shadow.config):
        inference.outputs(
            replace(scored_version(config), shadow=Shadow(shadow, 1.0)), DEFAULT_SIGNATURE, pixels(0), RequestContext()
        )
    inference.mirror.wait()
    second = {"model": "model", "version": "2"}
    assert page.get_sample_value("serving_shadow_total", {**second, "agrees": "true"}) == 2
    assert page.get_sample_value("serving_outlier_score_count", second) == 2


def test_scores_are_told_in_units_of_the_threshold_with_three_digits() -> None:
    scores = relative_scores(np.array([0, 0.1234567, 21.0, 123456], np.float32), 0.5)
    assert outlier_score_headers(scores) == (("Outlier-Score", "0, 0.247, 42, 2.47e+05"),)


def test_a_score_that_is_no_finite_number_is_told_as_infinite() -> None:
    ((_, value),) = outlier_score_headers(relative_scores(np.array([nan, inf, -inf, 1e-300]), 1e-310))
    assert value == "Infinity, Infinity, Infinity, 1e+10"


@pytest.mark.parametrize(("rows", "are_told"), [(0, False), (1, True), (MAX_HEADER_SCORES, True), (257, False)])
def test_a_header_holds_only_so_many(rows: int, are_told: bool) -> None:
    assert bool(outlier_score_headers([0.123456] * rows)) is are_told


# By HTTP


def png(level: int) -> bytes:
    Image.new("L", (2, 2), level).save(out := BytesIO(), "PNG")
    return out.getvalue()


def form(*levels: int) -> dict[str, Any]:
    return {f"picture {number}": (BytesIO(png(level)), f"{level}.png") for number, level in enumerate(levels)}


def v2(**more: Any) -> dict[str, Any]:
    tensor = {"name": "pixels", "shape": [1, 2, 2], "datatype": "FP32", "data": [64, 64, 64, 64]}
    return {"inputs": [tensor], **more}


JSON_BODY = {"instances": pixels(64)["pixels"].tolist()}
ASK: dict[str, Callable[[FakeService], TestResponse]] = {
    "rows": lambda service: service.post(PREDICT, JSON_BODY),
    "columns": lambda service: service.post(PREDICT, {"inputs": JSON_BODY["instances"]}),
    "classify": lambda service: service.post(CLASSIFY, JSON_BODY),
    "picture": lambda service: service.post(PREDICT, png(64), "image/png"),
    "classify picture": lambda service: service.post(CLASSIFY, png(64), "image/png"),
    "classify form": lambda service: service.post_form(CLASSIFY, form(64, 255)),
    "v2": lambda service: service.post(INFER, v2()),
    "v2 output": lambda service: service.post(INFER, v2(outputs=[{"name": "probabilities"}])),
    "v2 binary": lambda service: service.post(INFER, v2(parameters={"binary_data_output": True})),
    "v2 classification": lambda service: service.post(
        INFER, v2(outputs=[{"name": "probabilities", "parameters": {"classification": 1}}])
    ),
}
WITH_HEADER = {"classify": "0.5", "picture": "0.5", "classify picture": "0.5", "classify form": "0.5, 1.99"}


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("road", ASK)
def test_no_answer_shows_the_score_in_its_body_and_some_in_a_header(
    service: FakeService, road: str, batching: str
) -> None:
    make_available(service.registry, scored_version(WITHOUT_SCORE, batching=batching))
    without = ASK[road](service)
    assert "Outlier-Score" not in without.headers
    make_available(service.registry, scored_version(batching=batching))
    response = ASK[road](service)
    assert (response.status_code, response.data) == (200, without.data)
    assert response.headers.get("Outlier-Score") == WITH_HEADER.get(road)
    assert service.sample(COUNT) == ("2.0" if "form" in road else "1.0")
