from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from werkzeug.test import TestResponse

from tests.unit.service.api.models import png
from tests.unit.service.fakes import FakeService, make_available
from tests.unit.service.scored import WITHOUT_SCORE, pixels, scored_version

PREDICT, CLASSIFY, INFER = "/v1/models/model:predict", "/v1/models/model:classify", "/v2/models/model/infer"


def form(*levels: int) -> dict[str, Any]:
    return {f"picture {number}": (BytesIO(png(level)), f"{level}.png") for number, level in enumerate(levels)}


def v2(**more: Any) -> dict[str, Any]:
    tensor = {"name": "pixels", "shape": [1, 2, 2], "datatype": "FP32", "data": [64, 64, 64, 64]}
    return {"inputs": [tensor], **more}


ROWS = pixels(64)["pixels"].tolist()
CLASSES = [{"name": "probabilities", "parameters": {"classification": 1}}]
Send = Callable[[FakeService], TestResponse]


@pytest.mark.parametrize(
    ("send", "header"),
    [
        (lambda service: service.post(PREDICT, {"instances": ROWS}), None),
        (lambda service: service.post(PREDICT, {"inputs": ROWS}), None),
        (lambda service: service.post(CLASSIFY, {"instances": ROWS}), "0.5"),
        (lambda service: service.post(PREDICT, png(64), "image/png"), "0.5"),
        (lambda service: service.post(CLASSIFY, png(64), "image/png"), "0.5"),
        (lambda service: service.post_form(CLASSIFY, form(64, 255)), "0.5, 1.99"),
        (lambda service: service.post(INFER, v2()), None),
        (lambda service: service.post(INFER, v2(parameters={"binary_data_output": True})), None),
        (lambda service: service.post(INFER, v2(outputs=CLASSES)), None),
    ],
)
def test_score_is_in_a_header_of_some_and_in_no_body(service: FakeService, send: Send, header: str | None) -> None:
    make_available(service.registry, scored_version(WITHOUT_SCORE))
    without = send(service)
    assert "Outlier-Score" not in without.headers
    make_available(service.registry, scored_version())
    response = send(service)
    assert (response.status_code, response.data) == (200, without.data)
    assert response.headers.get("Outlier-Score") == header
    rows = float(len((header or "0").split(",")))
    assert service.sample('serving_outlier_score_count{model="model",version="1"}') == str(rows)
