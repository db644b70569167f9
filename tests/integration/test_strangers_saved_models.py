"""Any SavedModel that is dropped into the models folder, by the engine `tensorflow`, through gunicorn."""

import base64
import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from service.engines.base import LoadError
from service.engines.loading import load_engine
from service.serving_config import ServingConfig
from service.tensors.dtypes import DTYPES
from service.tensors.tf_example import encode_example
from tests.integration.saved_models import save_identity
from tests.integration.server import Server
from tests.integration.test_lifecycle import failure
from tests.integration.test_versions import sample

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


def predict(server: Server, model: str, body: object, verb: str = "predict") -> Any:
    answer = server.request(f"/v1/models/{model}:{verb}", body)
    return answer.status, answer.json()


def test_one_input_and_one_output_need_no_names(tensorflow_server: Server) -> None:
    assert predict(tensorflow_server, "linear", {"instances": [10.0]}) == (200, {"predictions": [31.0]})
    assert predict(tensorflow_server, "linear", {"inputs": [10.0]}) == (200, {"outputs": [31.0]})
    assert predict(tensorflow_server, "linear", {"inputs": {"x": [10.0]}}) == (200, {"outputs": [31.0]})


def test_several_inputs_and_outputs_go_by_name(tensorflow_server: Server) -> None:
    rows = {"instances": [{"a": 1.0, "b": 2}, {"a": 3.5, "b": 1}]}
    assert predict(tensorflow_server, "sum_and_difference", rows) == (
        200,
        {"predictions": [{"sum": 5.0, "difference": -1.0}, {"sum": 5.5, "difference": 2.5}]},
    )
    columns = {"inputs": {"a": [1.0, 3.5], "b": [2, 1]}}
    assert predict(tensorflow_server, "sum_and_difference", columns) == (
        200,
        {"outputs": {"sum": [5.0, 5.5], "difference": [-1.0, 2.5]}},
    )


def test_strings_come_back_as_text_and_bytes_as_base64(tensorflow_server: Server) -> None:
    status, body = predict(tensorflow_server, "vocabulary", {"instances": ["shirt", {"b64": "/w=="}]})
    assert status == 200
    assert body["predictions"][0] == {
        "id": 1,
        "upper": "SHIRT",
        "raw_bytes": {"b64": base64.b64encode(b"shirt").decode()},
    }
    not_utf8 = {"b64": "/w=="}
    assert body["predictions"][1] == {"id": -1, "upper": not_utf8, "raw_bytes": not_utf8}


def test_a_signature_is_chosen_by_its_name(tensorflow_server: Server) -> None:
    request = {"signature_name": "length", "instances": ["shirt"]}
    assert predict(tensorflow_server, "vocabulary", request) == (200, {"predictions": [5]})


def test_an_unknown_signature_is_refused_with_the_known_ones(tensorflow_server: Server) -> None:
    status, body = predict(tensorflow_server, "vocabulary", {"signature_name": "size", "instances": ["shirt"]})
    assert status == 400
    assert 'Serving signature key "size" not found' in body["error"]
    assert "'length', 'serving_default'" in body["error"]


def test_classify_serializes_examples_for_a_model_that_parses_them(tensorflow_server: Server) -> None:
    status, body = predict(tensorflow_server, "examples", {"examples": [{"x": [1.0, 2.0]}]}, "classify")
    assert status == 200
    (((low, low_score), (high, high_score)),) = body["results"]
    assert (low, high) == ("low", "high")
    assert high_score == pytest.approx(1 / (1 + math.exp(-1)))
    assert low_score + high_score == pytest.approx(1)


def test_regress_merges_the_context_into_each_example(tensorflow_server: Server) -> None:
    request = {"signature_name": "regress", "context": {"n": 5}, "examples": [{"x": 1.0}, {"x": 2.0, "n": 7}]}
    assert predict(tensorflow_server, "examples", request, "regress") == (200, {"results": [8.0, 13.0]})


def test_features_are_the_inputs_of_a_model_that_parses_no_examples(tensorflow_server: Server) -> None:
    assert predict(tensorflow_server, "linear", {"examples": [{"x": 10.0}]}, "regress") == (200, {"results": [31.0]})


def test_what_a_model_refuses_is_the_senders_fault(tensorflow_server: Server) -> None:
    status, body = predict(tensorflow_server, "logarithm", {"instances": [101.0]})
    assert status == 400
    assert "x is above 100" in body["error"]
    status, body = predict(tensorflow_server, "examples", {"examples": [{"y": 1.0}]}, "classify")
    assert status == 400
    assert "Feature: x" in body["error"]


def test_nan_and_infinity_come_back_as_null(tensorflow_server: Server) -> None:
    request = {"instances": [-1.0, 0.0, 1.0]}
    assert predict(tensorflow_server, "logarithm", request) == (200, {"predictions": [None, None, 0.0]})


def test_an_output_without_rows_needs_the_column_format(tensorflow_server: Server) -> None:
    status, body = predict(tensorflow_server, "mean", {"instances": [1.0, 2.0]})
    assert status == 400
    assert "mean has no shape information" in body["error"]
    assert predict(tensorflow_server, "mean", {"inputs": [1.0, 2.0]}) == (
        200,
        {"outputs": {"double": [2.0, 4.0], "mean": 1.5}},
    )


def test_an_input_of_pictures_takes_a_picture_by_its_shape_alone(tensorflow_server: Server) -> None:
    Image.new("RGB", (40, 20), (255, 0, 10)).save(buffer := BytesIO(), "PNG")
    answer = tensorflow_server.request("/v1/models/colour:predict", buffer.getvalue(), "image/png")
    assert (answer.status, answer.json()) == (200, {"predictions": [[255.0, 0.0, 10.0]]})


def test_a_model_of_numbers_takes_no_pictures(tensorflow_server: Server) -> None:
    answer = tensorflow_server.request("/v1/models/linear:predict", b"\x89PNG", "image/png")
    assert answer.status == 400
    assert "takes no pictures" in answer.json()["error"]


def test_metadata_has_the_form_of_tensorflow_serving(tensorflow_server: Server) -> None:
    metadata = tensorflow_server.request("/v1/models/linear/versions/1/metadata").json()
    assert metadata["model_spec"] == {"name": "linear", "signature_name": "", "version": "1"}
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert signature["inputs"]["x"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
        "name": "serving_default_x:0",
    }


def test_a_damaged_saved_model_says_so_and_the_others_serve_on(tensorflow_server: Server) -> None:
    failure(tensorflow_server, "damaged", 1, "TensorFlow cannot load it")
    answer = tensorflow_server.request("/v1/models/damaged:predict", {"instances": [1.0]})
    assert answer.status == 404
    assert "Servable not found for request: Latest(damaged)" in answer.json()["error"]
    # It is LOADING whenever it is tried again.
    given_up = 'serving_model_state{model="damaged",state="END",version="1"}'
    tensorflow_server.wait_for(lambda: sample(tensorflow_server, given_up) == 1, "its state is not shown")
    assert sample(tensorflow_server, 'serving_model_state{model="linear",state="AVAILABLE",version="1"}') == 1


@pytest.mark.parametrize("dtype", VALUES)
def test_every_type_of_tensor_goes_in_and_out_unchanged(dtype: str, tmp_path: Path) -> None:
    save_identity(tmp_path, tf.as_dtype(DTYPES[dtype]))
    engine = load_engine(tmp_path, ServingConfig(), "tensorflow")
    given = np.array([value.encode() if isinstance(value, str) else value for value in VALUES[dtype]], DTYPES[dtype])
    output = engine.run("serving_default", {"x": given})["x"]
    assert engine.signatures["serving_default"].inputs["x"].dtype == dtype
    assert output.dtype == given.dtype
    assert output.tolist() == given.tolist()


def test_a_saved_model_without_the_tag_serve_says_which_it_has(tmp_path: Path) -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.constant(1.0)
        builder = tf.compat.v1.saved_model.Builder(str(tmp_path / "1"))
        builder.add_meta_graph_and_variables(session, ["train"])
        builder.save()
    with pytest.raises(LoadError, match="serve"):
        load_engine(tmp_path / "1", ServingConfig(), "tensorflow")


def test_an_encoded_example_is_the_one_that_tensorflow_reads() -> None:
    features = {"x": [1.5, 2.0], "n": [-1, 2**40], "word": "Füße", "raw": {"b64": "/w=="}, "empty": []}
    example = tf.train.Example.FromString(encode_example(features, "examples[0]"))
    read = example.features.feature
    assert list(read["x"].float_list.value) == [1.5, 2.0]
    assert list(read["n"].int64_list.value) == [-1, 2**40]
    assert list(read["word"].bytes_list.value) == ["Füße".encode()]
    assert list(read["raw"].bytes_list.value) == [b"\xff"]
    assert "empty" in read
