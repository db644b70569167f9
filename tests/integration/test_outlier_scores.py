"""Models that tell what looks like nothing they know, through gunicorn, by either engine."""

import re
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.serving_config import read_serving_config
from tests.integration.scored_models import SIZE, misname_score, save_brightness
from tests.integration.server import Answer, Server, running
from tests.integration.test_lifecycle import failure

FORM = "multipart/form-data; boundary=edge"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model with and without a score, and versions of it whose serving.json does not fit."""
    models = tmp_path_factory.mktemp("models")
    save_brightness(models / "plain" / "1", with_score=False)
    save_brightness(models / "scored" / "1", with_score=True)
    save_brightness(models / "float16" / "1", with_score=True, precision="float16")
    save_brightness(models / "int8" / "1", with_score=True, precision="int8")
    for name, changes in {"signature": {"signature": "scord"}, "output": {"output": "score"}}.items():
        shutil.copytree(models / "scored" / "1", models / f"wrong_{name}" / "1")
        misname_score(models / f"wrong_{name}" / "1", **changes)
    return models


@pytest.fixture(scope="module", params=["litert", "tensorflow"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(models: Path, engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(models, tmp_path_factory.mktemp("log") / "service.log", engine=engine) as server:
        yield server


def png(*levels: int) -> bytes:
    """A picture of so many stripes; its spread is what the model does not know."""
    stripes = np.repeat(np.array(levels, np.uint8), SIZE // len(levels))
    Image.fromarray(np.tile(stripes, (SIZE, 1))).save(out := BytesIO(), "PNG")
    return out.getvalue()


def form(*pictures: bytes) -> bytes:
    parts = [
        b'--edge\r\nContent-Disposition: form-data; name="%d"; filename="%d.png"\r\n\r\n%s\r\n' % (number, number, data)
        for number, data in enumerate(pictures)
    ]
    return b"".join([*parts, b"--edge--\r\n"])


def rows(*levels: float) -> list[Any]:
    return [[[level] * SIZE] * SIZE for level in levels]


def infer(**more: Any) -> dict[str, Any]:
    tensor = {"name": "pixels", "shape": [2, SIZE, SIZE], "datatype": "FP32", "data": rows(0, 255)}
    return {"inputs": [tensor], **more}


def sample(server: Server, series: str) -> float:
    page = server.request("/metrics").body.decode()
    found = re.search(rf"^{re.escape(series)} (\S+)$", page, re.MULTILINE)
    return float(found[1]) if found else 0.0


ROADS: dict[str, tuple[str, Any, str]] = {
    "rows": ("/v1/models/%s:predict", {"instances": rows(0, 255)}, "application/json"),
    "columns": ("/v1/models/%s:predict", {"inputs": rows(0, 255)}, "application/json"),
    "classify": ("/v1/models/%s:classify", {"instances": rows(0, 255)}, "application/json"),
    "picture": ("/v1/models/%s:predict", png(0, 255), "image/png"),
    "classify a picture": ("/v1/models/%s:classify?top_k=1", png(0, 255), "image/png"),
    "classify a form": ("/v1/models/%s:classify", form(png(0), png(0, 51), png(0, 255)), FORM),
    "v2": ("/v2/models/%s/infer", infer(), "application/json"),
    "v2 binary": ("/v2/models/%s/infer", infer(parameters={"binary_data_output": True}), "application/json"),
    "v2 classification": (
        "/v2/models/%s/infer",
        infer(outputs=[{"name": "probabilities", "parameters": {"classification": 1}}]),
        "application/json",
    ),
}
HEADERS = {"classify": "0, 0", "picture": "2", "classify a picture": "2", "classify a form": "0, 0.4, 2"}


def ask(server: Server, model: str, road: str) -> Answer:
    path, body, content_type = ROADS[road]
    return server.request(path % model, body, content_type)


def told(answer: Answer) -> str | None:
    """What the header says; its case differs by road."""
    return {name.lower(): value for name, value in answer.headers.items()}.get("outlier-score")


@pytest.mark.parametrize("road", ROADS)
def test_a_model_with_a_score_answers_as_without_and_tells_the_score_beside(server: Server, road: str) -> None:
    without, answer = ask(server, "plain", road), ask(server, "scored", road)
    assert without.status == 200
    assert (answer.status, answer.body) == (200, without.body.replace(b'"plain"', b'"scored"'))
    assert (told(without), told(answer)) == (None, HEADERS.get(road))


def test_every_row_is_counted_by_how_unlike_the_training_data_it_is(server: Server) -> None:
    def counts() -> list[float]:
        series = 'serving_outlier_score_%s{model="scored",version="1"}'
        below = 'serving_outlier_score_bucket{le="1.0",model="scored",version="1"}'
        return [sample(server, below), *(sample(server, series % part) for part in ("count", "sum"))]

    before = counts()
    ask(server, "scored", "classify a form")
    ask(server, "scored", "v2")
    assert [after - earlier for after, earlier in zip(counts(), before, strict=True)] == [4, 5, pytest.approx(2.4)]
    assert sample(server, 'serving_outlier_score_count{model="plain",version="1"}') == 0


def test_who_names_the_scored_signature_gets_the_score_as_an_output(server: Server) -> None:
    body = {"signature_name": "scored", "instances": rows(0)}
    answer = server.request("/v1/models/scored:predict", body)
    (row,) = answer.json()["predictions"]
    assert set(row) == {"probabilities", "outlier_score"}
    assert row["outlier_score"] == 0
    answer = server.request("/v1/models/scored:classify?signature_name=scored", png(0, 255), "image/png")
    assert told(answer) == "2"


def test_the_metadata_show_the_signatures_of_the_saved_model(server: Server) -> None:
    shown = server.request("/v1/models/scored/metadata").json()["metadata"]["signature_def"]["signature_def"]
    assert {name: set(of["outputs"]) for name, of in shown.items()} == {
        "serving_default": {"probabilities"},
        "scored": {"outlier_score", "probabilities"},
    }
    (output,) = server.request("/v2/models/scored").json()["outputs"]
    assert output["name"] == "probabilities"


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("wrong_signature", "it takes the signature 'scord'; there is 'scored', 'serving_default'"),
        ("wrong_output", "'scored' has no output 'score'; it has 'outlier_score', 'probabilities'"),
    ],
)
def test_what_serving_json_says_of_a_score_that_is_not_there_is_refused(
    server: Server, model: str, reason: str
) -> None:
    failure(server, model, 1, f"outlier_score does not fit the model: {reason}")
    assert server.request(f"/v1/models/{model}:predict", {"instances": rows(0)}).status == 404


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_twin_of_lower_precision_is_taken_and_answers(models: Path, precision: str, tmp_path: Path) -> None:
    config = read_serving_config(models / precision / "1")
    assert config.twin is not None
    assert config.twin.precision == precision
    with running(models, tmp_path / "service.log", engine="auto", model_name=precision) as server:
        answer = ask(server, precision, "classify a form")
        assert told(answer) == HEADERS["classify a form"]
        assert [ranking[0][0] for ranking in answer.json()["results"]] == ["dark", "dark", "grey"]
        counted = f'serving_inference_duration_seconds_count{{engine="litert",model="{precision}",version="1"}}'
        assert sample(server, counted) == 1
