"""Any SavedModel that is dropped into the models folder, by the engine `tensorflow`, over HTTP. The rules of the
protocol are in tests/unit/service/api/v1."""

import re
from typing import Any

import pytest

from tests.integration.models import Model
from tests.integration.server import Server

EXAMPLES = {"examples": [{"x": 2.0}, {"x": [80.0]}]}


def post(server: Server, path: str, body: object) -> Any:
    answer = server.request(f"/v1/models/{path}", body)
    return answer.status, answer.json()


@pytest.mark.parametrize(
    ("path", "given", "answer"),
    [
        (
            "sum_and_difference:predict",
            {"inputs": {"a": [1.0, 3.5], "b": [2, 1]}},
            {"outputs": {"sum": [5.0, 5.5], "difference": [-1.0, 2.5]}},
        ),
        # Strings that are no UTF-8, and bytes.
        (
            "vocabulary:predict",
            {"instances": ["shirt", {"b64": "/w=="}]},
            {
                "predictions": [
                    {"id": 1, "upper": "SHIRT", "raw_bytes": {"b64": "c2hpcnQ="}},
                    {"id": -1, "upper": {"b64": "/w=="}, "raw_bytes": {"b64": "/w=="}},
                ]
            },
        ),
        ("logarithm:predict", {"instances": [-1.0, 0.0, 1.0]}, {"predictions": [None, None, 0.0]}),
        ("mean:predict", {"inputs": [1.0, 2.0]}, {"outputs": {"double": [2.0, 4.0], "mean": 1.5}}),
        # The input lies within the graph: its signature says [-1, 1], and nothing holds a request to it.
        ("halves:predict", {"instances": [2.0, 3.0, 4.0]}, {"predictions": [4.0, 4.5, 5.0]}),
        # As TensorFlow Serving's own saved_model_half_plus_two_tf2_cpu, whose signature says [1].
        ("one_row:predict", {"instances": [[1.0, 2.0]]}, {"predictions": [[2.5, 3.0]]}),
        # Examples, for models that parse them and for one that does not.
        ("halves:regress", {"signature_name": "regress", **EXAMPLES}, {"results": [4.0, 43.0]}),
        (
            "halves:regress",
            {
                "signature_name": "regress",
                "context": {"more": 100.0},
                "examples": [{"x": 2.0}, {"x": 2.0, "more": 9.0}],
            },
            {"results": [104.0, 13.0]},
        ),
        ("halves:classify", {"signature_name": "classify", **EXAMPLES}, {"results": [[["", 4.0]], [["", 43.0]]]}),
        ("examples:classify", {"examples": [{"x": [1.0, 1.0]}]}, {"results": [[["low", 0.5], ["high", 0.5]]]}),
        ("linear:regress", {"examples": [{"x": 10.0}]}, {"results": [31.0]}),
        # Two versions, of which one has a label.
        ("halves/versions/124:predict", {"instances": [[2.0]]}, {"predictions": [[4.0]]}),
        ("halves/labels/old:predict", {"instances": [[2.0]]}, {"predictions": [[3.0]]}),
    ],
)
def test_answers(tensorflow_server: Server, path: str, given: object, answer: object) -> None:
    assert post(tensorflow_server, path, given) == (200, answer)


@pytest.mark.parametrize(
    ("path", "given", "words"),
    [
        ("logarithm:predict", {"instances": [101.0]}, "the model refuses this input: .*x is above 100"),
        ("examples:classify", {"examples": [{"y": 1.0}]}, "Feature: x"),
        ("halves:regress", {"signature_name": "regress", "examples": [{"x": [1.0, 2.0]}]}, "Key: x"),
        ("mean:predict", {"instances": [1.0, 2.0]}, "mean has no shape information"),
    ],
)
def test_refusals(tensorflow_server: Server, path: str, given: object, words: str) -> None:
    status, answer = post(tensorflow_server, path, given)
    assert (status, list(answer)) == (400, ["error"])
    assert re.search(words, answer["error"])


def test_metadata_name_the_tensors_and_methods_of_the_graph(tensorflow_server: Server) -> None:
    metadata = tensorflow_server.request("/v1/models/halves/labels/old/metadata").json()
    assert metadata["model_spec"] == {"name": "halves", "signature_name": "", "version": "123"}
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    assert {name: signature["method_name"] for name, signature in signatures.items()} == {
        "serving_default": "tensorflow/serving/predict",
        "regress": "tensorflow/serving/regress",
        "classify": "tensorflow/serving/classify",
    }
    assert signatures["regress"]["inputs"]["inputs"]["name"] == "examples:0"


def test_damaged_saved_model_says_so_and_the_others_serve_on(tensorflow_server: Server) -> None:
    damaged = Model(tensorflow_server, "damaged")
    damaged.failure(1, "TensorFlow cannot load it")
    assert damaged.predict() == 404
    # It is LOADING whenever it is tried again.
    given_up = 'serving_model_state{model="damaged",state="END",version="1"}'
    tensorflow_server.wait_for(lambda: tensorflow_server.sample(given_up) == 1, "its state is not shown")
    assert tensorflow_server.sample('serving_model_state{model="linear",state="AVAILABLE",version="1"}') == 1
