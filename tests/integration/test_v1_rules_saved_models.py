"""TensorFlow Serving's REST API on real SavedModels, through real HTTP: what tests/unit/service/api/v1
cannot show with fakes. Each test is one rule; the models and cases are our own."""

import gzip
import json
import urllib.request
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
import tensorflow as tf

from service.tensors.dtypes import DTYPES
from tests.integration import saved_models
from tests.integration.server import Server, running
from tests.integration.test_strangers_saved_models import VALUES

HALVES = "/v1/models/halves"


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two versions of the model `halves`, which add 2 and 3; in folders with zeros in front, as TensorFlow's exporters
    once wrote them. And `identities`, with a signature for each type."""
    models = tmp_path_factory.mktemp("models")
    saved_models.save_halves(models / "halves" / "00000123")
    saved_models.save_halves(models / "halves" / "00000124", plus=3.0)
    saved_models.save_one_row(models / "one_row" / "1")
    (models / "models.toml").write_text("[models.halves]\nlabels = {old = 123}\n")
    saved_models.save_identities(models / "identities" / "1", {name: tf.as_dtype(DTYPES[name]) for name in DTYPES})
    with running(models, tmp_path_factory.mktemp("log") / "service.log", max_body_bytes=100_000) as server:
        yield server


def post(server: Server, path: str, body: object) -> Any:
    answer = server.request(path, body)
    return answer.status, answer.json()


# Predict


def test_rows_and_columns_are_answered_in_kind(halves: Server) -> None:
    assert post(halves, f"{HALVES}:predict", {"instances": [[2.0], [3.0]]}) == (200, {"predictions": [[4.0], [4.5]]})
    assert post(halves, f"{HALVES}:predict", {"inputs": [[2.0], [3.0]]}) == (200, {"outputs": [[4.0], [4.5]]})
    assert post(halves, f"{HALVES}:predict", {"inputs": {"x": [[2.0]]}}) == (200, {"outputs": [[4.0]]})


@pytest.mark.parametrize(
    ("rows", "answers"), [([2.0, 3.0, 4.0], [4.0, 4.5, 5.0]), ([[1.0, 2.0], [3.0, 4.0]], [[3.5, 4.0], [4.5, 5.0]])]
)
def test_an_input_within_a_graph_takes_whatever_shape_the_graph_takes(
    halves: Server, rows: list[Any], answers: list[Any]
) -> None:
    """The signature says [-1, 1], which is what the examples would give; nothing holds a request to it."""
    assert post(halves, f"{HALVES}:predict", {"instances": rows}) == (200, {"predictions": answers})
    assert post(halves, f"{HALVES}:predict", {"inputs": rows}) == (200, {"outputs": answers})


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ({"instances": [1.0, 2.0, 5.0]}, {"predictions": [2.5, 3.0, 4.5]}),
        ({"instances": [[1.0, 2.0]]}, {"predictions": [[2.5, 3.0]]}),
        ({"inputs": [1.0, 2.0, 5.0]}, {"outputs": [2.5, 3.0, 4.5]}),
        ({"inputs": 1.0}, {"outputs": 2.5}),
        ({"inputs": []}, {"outputs": []}),
    ],
)
def test_a_graph_that_declares_one_row_takes_whatever_shape_it_takes(halves: Server, given: Any, answer: Any) -> None:
    """As TensorFlow Serving's own saved_model_half_plus_two_tf2_cpu, which declares [1]."""
    assert post(halves, "/v1/models/one_row:predict", given) == (200, answer)


def test_a_shape_that_the_graph_refuses_is_told_with_the_one_it_declares(tensorflow_server: Server) -> None:
    body = {"instances": [{"a": [1.0, 2.0], "b": [1, 2, 3]}]}
    status, answer = post(tensorflow_server, "/v1/models/sum_and_difference:predict", body)
    assert status == 400
    assert answer["error"].startswith("the model refuses this input: ")
    assert answer["error"].endswith(
        "('a' has the shape [1, 2], declared is [-1], 'b' has the shape [1, 3], declared is [-1])"
    )


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_every_type_goes_in_and_out_exactly(halves: Server, dtype: str) -> None:
    rows = {"signature_name": dtype, "instances": VALUES[dtype]}
    assert post(halves, "/v1/models/identities:predict", rows) == (200, {"predictions": VALUES[dtype]})
    columns = {"signature_name": dtype, "inputs": {"x": VALUES[dtype]}}
    assert post(halves, "/v1/models/identities:predict", columns) == (200, {"outputs": VALUES[dtype]})


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_a_batch_of_none_is_answered_with_none(halves: Server, dtype: str) -> None:
    body = {"signature_name": dtype, "inputs": []}
    assert post(halves, "/v1/models/identities:predict", body) == (200, {"outputs": []})


# Classify and regress


def test_regress_answers_a_number_for_each_example(halves: Server) -> None:
    body = {"signature_name": "regress", "examples": [{"x": 2.0}, {"x": [80.0]}]}
    assert post(halves, f"{HALVES}:regress", body) == (200, {"results": [4.0, 43.0]})


def test_classify_answers_labels_and_scores_for_each_example(halves: Server) -> None:
    body = {"signature_name": "classify", "examples": [{"x": 2.0}, {"x": 20.0}]}
    assert post(halves, f"{HALVES}:classify", body) == (200, {"results": [[["", 4.0]], [["", 13.0]]]})


def test_classify_answers_the_classes_that_the_model_names(tensorflow_server: Server) -> None:
    body = {"examples": [{"x": [1.0, 1.0]}]}
    assert post(tensorflow_server, "/v1/models/examples:classify", body) == (
        200,
        {"results": [[["low", 0.5], ["high", 0.5]]]},
    )


def test_a_context_is_part_of_every_example(halves: Server) -> None:
    body = {"signature_name": "regress", "context": {"more": 100.0}, "examples": [{"x": 2.0}, {"x": 2.0, "more": 10.0}]}
    assert post(halves, f"{HALVES}:regress", body) == (200, {"results": [104.0, 14.0]})


@pytest.mark.parametrize("example", [{}, {"y": 2.0}, {"x": 2}, {"x": "2.0"}, {"x": [1.0, 2.0]}, {"x": []}])
def test_an_example_that_the_model_cannot_parse_is_the_clients_mistake(halves: Server, example: object) -> None:
    status, body = post(halves, f"{HALVES}:regress", {"signature_name": "regress", "examples": [example]})
    assert status == 400
    assert list(body) == ["error"]


# Versions


@pytest.mark.parametrize(
    ("place", "y"), [("", 4.0), ("/versions/124", 4.0), ("/versions/123", 3.0), ("/labels/old", 3.0)]
)
def test_the_version_or_label_in_the_path_answers_and_the_latest_without_one(
    halves: Server, place: str, y: float
) -> None:
    path = f"{HALVES}{place}"
    assert post(halves, f"{path}:predict", {"instances": [[2.0]]}) == (200, {"predictions": [[y]]})
    examples = {"signature_name": "regress", "examples": [{"x": 2.0}]}
    assert post(halves, f"{path}:regress", examples) == (200, {"results": [y]})
    examples = {"signature_name": "classify", "examples": [{"x": 2.0}]}
    assert post(halves, f"{path}:classify", examples) == (200, {"results": [[["", y]]]})


def test_the_status_tells_both_versions_or_the_one_asked_for(halves: Server) -> None:
    def available(version: str) -> dict[str, object]:
        return {"version": version, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}

    status = halves.request(HALVES).json()
    assert status == {"model_version_status": [available("124"), available("123")]}
    for one in ("versions/123", "labels/old"):
        assert halves.request(f"{HALVES}/{one}").json() == {"model_version_status": [available("123")]}


# Metadata


def test_metadata_are_those_of_the_golden_files(halves: Server) -> None:
    def info(name: str, dtype: str, *sizes: str) -> dict[str, object]:
        dim = [{"size": size, "name": ""} for size in sizes]
        return {"dtype": dtype, "tensor_shape": {"dim": dim, "unknown_rank": False}, "name": name}

    def signature(inputs: object, outputs: object, method: str) -> dict[str, object]:
        method_name = f"tensorflow/serving/{method}"
        return {"inputs": inputs, "outputs": outputs, "method_name": method_name, "defaults": {}}

    examples = info("examples:0", "DT_STRING", "-1")
    x, y, total = (info(f"{name}:0", "DT_FLOAT", "-1", "1") for name in ("x", "y", "total"))
    by_label = halves.request(f"{HALVES}/labels/old/metadata").json()
    assert by_label == halves.request(f"{HALVES}/versions/123/metadata").json()
    assert by_label == {
        "model_spec": {"name": "halves", "signature_name": "", "version": "123"},
        "metadata": {
            "signature_def": {
                "signature_def": {
                    "serving_default": signature({"x": x}, {"y": y}, "predict"),
                    "regress": signature({"inputs": examples}, {"outputs": total}, "regress"),
                    "classify": signature({"inputs": examples}, {"scores": total}, "classify"),
                }
            }
        },
    }


# Content codings


def exchange(server: Server, body: bytes, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{HALVES}:predict", body)
    for name, value in headers.items():
        request.add_header(name.replace("_", "-"), value)
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, response.read(), {name.lower(): value for name, value in response.headers.items()}
    except urllib.error.HTTPError as error:
        return error.code, error.read(), {name.lower(): value for name, value in error.headers.items()}


BODY = b'{"instances": [[2.0], [3.0]]}'
ANSWER = {"predictions": [[4.0], [4.5]]}


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(BODY)),
        ("deflate", zlib.compress(BODY)),
        ("gzip, deflate", zlib.compress(gzip.compress(BODY))),
        ("identity", BODY),
    ],
)
def test_a_packed_body_is_unpacked(halves: Server, coding: str, body: bytes) -> None:
    status, answer, _ = exchange(halves, body, Content_Encoding=coding)
    assert (status, json.loads(answer)) == (200, ANSWER)


@pytest.mark.parametrize(
    ("coding", "body", "status"),
    [
        ("br", BODY, 415),
        ("gzip", BODY, 400),
        ("gzip", gzip.compress(BODY)[:-1], 400),
        ("gzip", gzip.compress(BODY) + b"more", 400),
        ("gzip", gzip.compress(bytes(100_001)), 413),
    ],
)
def test_a_packed_body_that_cannot_be_unpacked_is_told_why(
    halves: Server, coding: str, body: bytes, status: int
) -> None:
    found, answer, _ = exchange(halves, body, Content_Encoding=coding)
    assert found == status
    assert list(json.loads(answer)) == ["error"]


@pytest.mark.parametrize(("coding", "unpack"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
def test_a_long_answer_is_packed_where_the_client_takes_it(halves: Server, coding: str, unpack: Any) -> None:
    rows = [[float(number)] for number in range(1_000)]
    status, answer, headers = exchange(halves, json.dumps({"instances": rows}).encode(), Accept_Encoding=coding)
    assert (status, headers["content-encoding"], headers["vary"]) == (200, coding, "accept-encoding")
    assert len(json.loads(unpack(answer))["predictions"]) == 1_000


def test_a_short_answer_is_never_packed(halves: Server) -> None:
    status, answer, headers = exchange(halves, BODY, Accept_Encoding="gzip")
    assert (status, json.loads(answer), "content-encoding" in headers) == (200, ANSWER, False)
