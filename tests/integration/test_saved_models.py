"""Any SavedModel that is dropped into the models folder, by the engine `tensorflow`, over HTTP. The rules of the
protocol are in tests/unit/service/api/test_v1_rules.py."""

from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from service.tensors.dtypes import DTYPES
from tests.integration.models import Model
from tests.integration.server import Server

VALUES: dict[str, list[Any]] = {
    "DT_BOOL": [True, False],
    "DT_INT8": [-(2**7), 2**7 - 1],
    "DT_INT16": [-(2**15), 2**15 - 1],
    "DT_INT32": [-(2**31), 2**31 - 1],
    "DT_INT64": [-(2**63), 2**63 - 1, 2**53 + 1],
    "DT_UINT8": [0, 2**8 - 1],
    "DT_UINT16": [0, 2**16 - 1],
    "DT_UINT32": [0, 2**32 - 1],
    "DT_UINT64": [0, 2**64 - 1],
    "DT_HALF": [0.5, -2.0],
    "DT_FLOAT": [0.1, -3e38],
    "DT_DOUBLE": [0.1, 1e300],
    "DT_STRING": ["shirt", "Füße"],
}
EXAMPLES = {"examples": [{"x": 2.0}, {"x": [80.0]}]}


def post(server: Server, path: str, body: object) -> Any:
    answer = server.request(f"/v1/models/{path}", body)
    return answer.status, answer.json()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_goes_in_and_out_exactly(tensorflow_server: Server, dtype: str) -> None:
    name = "string" if dtype == "DT_STRING" else DTYPES[dtype].name
    for given, answer in (
        ({"instances": VALUES[dtype]}, {"predictions": VALUES[dtype]}),
        ({"inputs": {"x": VALUES[dtype]}}, {"outputs": VALUES[dtype]}),
        ({"inputs": []}, {"outputs": []}),
    ):
        assert post(tensorflow_server, f"identity_{name}:predict", given) == (200, answer)


@pytest.mark.parametrize(
    ("path", "given", "answer"),
    [
        # One input and one output need no names.
        ("linear:predict", {"instances": [10.0]}, {"predictions": [31.0]}),
        ("linear:predict", {"inputs": {"x": [10.0]}}, {"outputs": [31.0]}),
        (
            "sum_and_difference:predict",
            {"instances": [{"a": 1.0, "b": 2}, {"a": 3.5, "b": 1}]},
            {"predictions": [{"sum": 5.0, "difference": -1.0}, {"sum": 5.5, "difference": 2.5}]},
        ),
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
        ("vocabulary:predict", {"signature_name": "length", "instances": ["shirt"]}, {"predictions": [5]}),
        ("logarithm:predict", {"instances": [-1.0, 0.0, 1.0]}, {"predictions": [None, None, 0.0]}),
        ("mean:predict", {"inputs": [1.0, 2.0]}, {"outputs": {"double": [2.0, 4.0], "mean": 1.5}}),
        # The input lies within the graph: its signature says [-1, 1], and nothing holds a request to it.
        ("halves:predict", {"instances": [2.0, 3.0, 4.0]}, {"predictions": [4.0, 4.5, 5.0]}),
        ("halves:predict", {"inputs": [[1.0, 2.0], [3.0, 4.0]]}, {"outputs": [[3.5, 4.0], [4.5, 5.0]]}),
        # As TensorFlow Serving's own saved_model_half_plus_two_tf2_cpu, whose signature says [1].
        ("one_row:predict", {"instances": [[1.0, 2.0]]}, {"predictions": [[2.5, 3.0]]}),
        ("one_row:predict", {"inputs": 1.0}, {"outputs": 2.5}),
        ("one_row:predict", {"inputs": []}, {"outputs": []}),
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
        ("halves/versions/123:predict", {"instances": [[2.0]]}, {"predictions": [[3.0]]}),
        ("halves/labels/old:predict", {"instances": [[2.0]]}, {"predictions": [[3.0]]}),
    ],
)
def test_answers(tensorflow_server: Server, path: str, given: object, answer: object) -> None:
    assert post(tensorflow_server, path, given) == (200, answer)


@pytest.mark.parametrize(
    ("path", "given", "words"),
    [
        ("logarithm:predict", {"instances": [101.0]}, ["the model refuses this input: ", "x is above 100"]),
        ("examples:classify", {"examples": [{"y": 1.0}]}, ["Feature: x"]),
        ("halves:regress", {"signature_name": "regress", "examples": [{"x": 2}]}, ["Key: x"]),
        ("halves:regress", {"signature_name": "regress", "examples": [{"x": [1.0, 2.0]}]}, ["Key: x"]),
        ("mean:predict", {"instances": [1.0, 2.0]}, ["mean has no shape information"]),
        (
            "vocabulary:predict",
            {"signature_name": "size", "instances": ["shirt"]},
            ['Serving signature key "size" not found', "'length', 'serving_default'"],
        ),
        (
            "sum_and_difference:predict",
            {"instances": [{"a": [1.0, 2.0], "b": [1, 2, 3]}]},
            [
                "the model refuses this input: ",
                "('a' has the shape [1, 2], declared is [-1], 'b' has the shape [1, 3], declared is [-1])",
            ],
        ),
    ],
)
def test_refusals(tensorflow_server: Server, path: str, given: object, words: list[str]) -> None:
    status, answer = post(tensorflow_server, path, given)
    assert (status, list(answer)) == (400, ["error"])
    for part in words:
        assert part in answer["error"]


def test_picture_for_an_input_with_the_shape_of_one(tensorflow_server: Server) -> None:
    Image.new("RGB", (40, 20), (255, 0, 10)).save(buffer := BytesIO(), "PNG")
    answer = tensorflow_server.request("/v1/models/colour:predict", buffer.getvalue(), "image/png")
    assert (answer.status, answer.json()) == (200, {"predictions": [[255.0, 0.0, 10.0]]})


def test_metadata_are_those_of_the_golden_files(tensorflow_server: Server) -> None:
    def info(name: str, dtype: str, *sizes: str) -> dict[str, object]:
        dim = [{"size": size, "name": ""} for size in sizes]
        return {"dtype": dtype, "tensor_shape": {"dim": dim, "unknown_rank": False}, "name": name}

    def signature(inputs: object, outputs: object, method: str) -> dict[str, object]:
        method_name = f"tensorflow/serving/{method}"
        return {"inputs": inputs, "outputs": outputs, "method_name": method_name, "defaults": {}}

    examples = info("examples:0", "DT_STRING", "-1")
    x, y, total = (info(f"{name}:0", "DT_FLOAT", "-1", "1") for name in ("x", "y", "total"))
    assert tensorflow_server.request("/v1/models/halves/labels/old/metadata").json() == {
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


def test_damaged_saved_model_says_so_and_the_others_serve_on(tensorflow_server: Server) -> None:
    damaged = Model(tensorflow_server, "damaged")
    damaged.failure(1, "TensorFlow cannot load it")
    answer = tensorflow_server.request("/v1/models/damaged:predict", {"instances": [1.0]})
    assert answer.status == 404
    assert "Servable not found for request: Latest(damaged)" in answer.json()["error"]
    # It is LOADING whenever it is tried again.
    given_up = 'serving_model_state{model="damaged",state="END",version="1"}'
    tensorflow_server.wait_for(lambda: tensorflow_server.sample(given_up) == 1, "its state is not shown")
    assert tensorflow_server.sample('serving_model_state{model="linear",state="AVAILABLE",version="1"}') == 1
