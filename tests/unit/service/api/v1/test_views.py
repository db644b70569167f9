import base64
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import orjson
import pytest
from PIL import Image

from service.errors import InvalidRequest
from service.inference.version import State, VersionStatus
from service.serving_config import ImageSpec, ServingConfig
from service.tensors.dtypes import Array
from tests.unit.service.fakes import Arrays, FakeService, any_shape, error, signature, tensor

LINEAR = signature({"x": tensor("DT_FLOAT", -1)}, {"y": tensor("DT_FLOAT", -1)})
PAIR = signature({"a": tensor("DT_FLOAT", -1), "b": tensor("DT_FLOAT", -1)})
PICTURES = signature({"pixels": tensor("DT_FLOAT", -1, 8, 8)}, {"scores": tensor("DT_FLOAT", -1, 3)})
LABELS = ("dark", "grey", "bright")
CLOTHING = ServingConfig(labels=LABELS, image=ImageSpec(height=8, width=8, mode="L", fit="contain"))


def times_three_plus_one(inputs: Arrays) -> dict[str, Array]:
    return {"y": inputs["x"] * 3 + 1}


def by_brightness(inputs: Arrays) -> dict[str, Array]:
    """The scores of dark, grey and bright: how near the mean is to 0, 128 and 255."""
    means = inputs["pixels"].mean(axis=(1, 2))
    return {"scores": (1 - np.abs(means[:, None] - [0, 128, 255]) / 255).astype(np.float32)}


def lengths(inputs: Arrays) -> dict[str, Array]:
    return {"y": np.array([len(file) for file in inputs["files"]])}


def png(level: int = 0, size: tuple[int, int] = (8, 8)) -> bytes:
    out = BytesIO()
    Image.new("L", size, level).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def linear(service: FakeService) -> FakeService:
    service.add(LINEAR, times_three_plus_one)
    return service


@pytest.fixture
def pictures(service: FakeService) -> FakeService:
    service.add(PICTURES, by_brightness, CLOTHING)
    return service


def labels(response: Any) -> list[list[str]]:
    return [[label for label, _ in row] for row in response.get_json()["results"]]


# Predictions


def test_instances_give_predictions_and_inputs_give_outputs(linear: FakeService) -> None:
    response = linear.post("/v1/models/model:predict", {"instances": [10.0, 0]})
    assert (response.status_code, response.get_json()) == (200, {"predictions": [31.0, 1.0]})
    assert response.content_type == "application/json"
    assert linear.post("/v1/models/model:predict", {"inputs": {"x": [10.0]}}).get_json() == {"outputs": [31.0]}


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/json"])
def test_json_is_read_whatever_its_content_type_says(linear: FakeService, content_type: str) -> None:
    response = linear.post("/v1/models/model:predict", {"instances": [10.0]}, content_type)
    assert response.get_json() == {"predictions": [31.0]}


@pytest.mark.parametrize(("place", "version"), [("", 2), ("/versions/1", 1), ("/versions/2", 2), ("/versions/0001", 1)])
def test_a_request_reaches_the_version_that_it_names(service: FakeService, place: str, version: int) -> None:
    service.add(LINEAR, lambda _: {"y": np.array([1])}, version=1)
    service.add(LINEAR, lambda _: {"y": np.array([2])}, version=2)
    response = service.post(f"/v1/models/model{place}:predict", {"instances": [0]})
    assert response.get_json() == {"predictions": [version]}


def test_a_request_may_name_its_signature(linear: FakeService) -> None:
    response = linear.post("/v1/models/model:predict", {"signature_name": "serving_default", "instances": [1]})
    assert response.status_code == 200
    response = linear.post("/v1/models/model:predict", {"signature_name": "train", "instances": [1]})
    assert (response.status_code, error(response)) == (
        400,
        "Serving signature key \"train\" not found; model has 'serving_default'",
    )


def test_the_model_may_answer_what_is_no_number(service: FakeService) -> None:
    service.add(LINEAR, lambda _: {"y": np.array([np.nan, np.inf])})
    response = service.post("/v1/models/model:predict", {"instances": [1]})
    assert orjson.loads(response.data) == {"predictions": [None, None]}


def test_unknown_query_parameters_are_ignored(linear: FakeService) -> None:
    assert linear.post("/v1/models/model:predict?verbose=1", {"instances": [1]}).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/models/nowhere:predict", {"instances": [1]}, 404, "Latest(nowhere)"),
        ("/v1/models/model/versions/9:predict", {"instances": [1]}, 404, "Specific(model, 9)"),
        ("/v1/models/model/versions/one:predict", {"instances": [1]}, 400, "version: one to numeric"),
        ("/v1/models/model/versions/-1:predict", {"instances": [1]}, 400, "version: -1 to numeric"),
        ("/v1/models/model/versions/٣:predict", {"instances": [1]}, 400, "version: ٣ to numeric"),
        ("/v1/models/model/labels/canary:predict", {"instances": [1]}, 400, "version label: canary"),
        ("/v1/models/nowhere/labels/canary:predict", {"instances": [1]}, 404, "no such model"),
        ("/v1/models/model:frobnicate", {"instances": [1]}, 400, "Malformed request: POST"),
        ("/v1/models/model", {"instances": [1]}, 405, "Malformed request: POST /v1/models/model: "),
        ("/v1/models/model:predict/", {"instances": [1]}, 400, "Malformed request: POST"),
        ("/v1/models/model:predict", b"", 400, "The document is empty"),
        ("/v1/models/model:predict", b"{", 400, "JSON Parse error"),
        ("/v1/models/model:predict", [1], 400, "the body is a JSON list"),
        ("/v1/models/model:predict", {}, 400, "Missing 'inputs' or 'instances' key"),
        ("/v1/models/model:predict", {"instances": [[1]]}, 400, "input 'x' has the shape [1, 1]; expected [-1]"),
        ("/v1/models/model:predict", {"inputs": 1}, 400, "input 'x' has the shape []; expected [-1]"),
        ("/v1/models/model:predict", {"inputs": {}}, 400, "Missing named input: x in 'inputs' object"),
        ("/v1/models/model:predict", {"instances": [{}]}, 400, "keys must be equal to: x"),
        ("/v1/models/model:predict", {"instances": ["10"]}, 400, "instances[0] is the string '10'"),
        ("/v1/models/model:classify", {"instances": [1]}, 400, "model cannot classify"),
        ("/v1/models/model:classify", {}, 400, "key 'examples' is expected and was not found"),
    ],
)
def test_a_request_that_cannot_be_answered_is_told_why(
    linear: FakeService, path: str, body: object, status: int, words: str
) -> None:
    response = linear.post(path, body)
    assert response.status_code == status
    assert words in error(response)


@pytest.mark.parametrize("path", ["/v1/models/model/versions/{}", "/v1/models/model/versions/{}/metadata"])
def test_a_version_of_thousands_of_digits_is_the_clients_mistake(linear: FakeService, path: str) -> None:
    response = linear.get(path.format("9" * 5000))
    assert response.status_code in (400, 404)
    assert error(response)


@pytest.mark.parametrize("depth", [100, 1000, 2000])
@pytest.mark.parametrize(("dtype", "leaf"), [("DT_FLOAT", b"1"), ("DT_STRING", b'"x"')])
def test_lists_that_go_too_deep_are_the_clients_mistake(
    service: FakeService, dtype: str, leaf: bytes, depth: int
) -> None:
    service.add(signature({"x": any_shape(dtype)}))
    body = b'{"instances": ' + b"[" * depth + leaf + b"]" * depth + b"}"
    response = service.post("/v1/models/model:predict", body)
    assert response.status_code == 400
    assert error(response)


def test_a_missing_input_is_named(service: FakeService) -> None:
    service.add(PAIR)
    response = service.post("/v1/models/model:predict", {"inputs": {"a": [1]}})
    assert (response.status_code, error(response)) == (
        400,
        "Missing named input: b in 'inputs' object; it has 'a', expected 'a', 'b'",
    )


def test_what_the_model_refuses_is_the_clients_mistake(service: FakeService) -> None:
    def refuse(_: Arrays) -> dict[str, Array]:
        raise InvalidRequest("the model refuses this input: index 7 is not in [0, 3)")

    service.add(LINEAR, refuse)
    response = service.post("/v1/models/model:predict", {"instances": [7]})
    assert (response.status_code, error(response)) == (400, "the model refuses this input: index 7 is not in [0, 3)")


def test_an_engine_that_breaks_is_ours_and_the_client_gets_json_all_the_same(service: FakeService) -> None:
    def break_down(_: Arrays) -> dict[str, Array]:
        raise RuntimeError("secret of the engine")

    service.add(LINEAR, break_down)
    response = service.post("/v1/models/model:predict", {"instances": [7]})
    assert (response.status_code, error(response)) == (500, "internal error; the service's log has the details")


def test_outputs_that_are_no_rows_can_be_asked_for_as_columns(service: FakeService) -> None:
    service.add(PAIR, lambda inputs: {"y": inputs["a"], "mean": inputs["a"].mean()})
    response = service.post("/v1/models/model:predict", {"instances": [{"a": 1, "b": 1}]})
    assert response.status_code == 400
    assert "ask in the column format" in error(response)
    response = service.post("/v1/models/model:predict", {"inputs": {"a": [1, 3], "b": [1, 1]}})
    assert response.get_json() == {"outputs": {"y": [1.0, 3.0], "mean": 2.0}}


def test_while_models_are_loaded_at_the_start_a_request_is_told_to_come_again(service: FakeService) -> None:
    service.registry.set_status("model", 1, VersionStatus(State.END, error="TensorFlow is not installed"))
    response = service.post("/v1/models/model:predict", {"instances": [7]})
    assert response.status_code == 404
    assert "version 1 is END: TensorFlow is not installed" in error(response)


# Bodies


# The server limits the body, for whatever road.
@pytest.mark.parametrize("make_service", ["server"], indirect=True)
def test_a_body_of_the_longest_length_is_taken_and_one_byte_more_is_not(
    make_service: Callable[..., FakeService],
) -> None:
    service = make_service(max_body_bytes=100)
    service.add(LINEAR, times_three_plus_one)
    body = b'{"instances": [10.0]}'.ljust(100)
    assert service.post("/v1/models/model:predict", body).status_code == 200
    response = service.post("/v1/models/model:predict", body + b" ")
    assert (response.status_code, error(response)) == (
        413,
        "a body of 101 bytes is too long: at most 100 bytes are taken (SERVING_MAX_BODY_BYTES)",
    )
    assert service.sample('serving_rejected_total{reason="too_large"}') == "1.0"


# Pictures


def test_a_picture_is_a_request(pictures: FakeService) -> None:
    response = pictures.post("/v1/models/model:classify", png(255), "image/png")
    assert (response.status_code, labels(response)) == (200, [["bright", "grey", "dark"]])
    assert response.get_json()["results"][0][0] == ["bright", 1.0]


def test_a_picture_is_answered_as_its_json_is(pictures: FakeService) -> None:
    by_json = pictures.post("/v1/models/model:predict", {"instances": np.full((1, 8, 8), 50).tolist()})
    by_picture = pictures.post("/v1/models/model:predict", png(50), "image/png")
    assert by_picture.get_json() == by_json.get_json()
    assert list(by_json.get_json()) == ["predictions"]


@pytest.mark.parametrize(
    "content_type", ["image/png", "image/jpeg", "image/*", "image/png; charset=binary", "IMAGE/PNG"]
)
def test_a_picture_is_what_it_is_whatever_its_content_type_says(pictures: FakeService, content_type: str) -> None:
    assert labels(pictures.post("/v1/models/model:classify?top_k=1", png(0), content_type)) == [["dark"]]


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", ""])
def test_a_picture_that_is_not_said_to_be_one_is_told_how_to_say_so(pictures: FakeService, content_type: str) -> None:
    response = pictures.post("/v1/models/model:classify", png(), content_type)
    assert response.status_code == 400
    assert "the body is a picture; say so with Content-Type: image/png" in error(response)


def test_the_files_of_a_form_are_one_request_in_their_order(pictures: FakeService) -> None:
    form = {"file": [(BytesIO(png(level)), f"{level}.png") for level in (255, 0, 128)], "comment": "x"}
    response = pictures.post_form("/v1/models/model:classify?top_k=1", form)
    assert labels(response) == [["bright"], ["dark"], ["grey"]]


def test_files_of_the_same_name_are_not_confused(pictures: FakeService) -> None:
    form = {"file": [(BytesIO(png(255)), "image.png"), (BytesIO(png(0)), "image.png")]}
    assert labels(pictures.post_form("/v1/models/model:classify?top_k=1", form)) == [["bright"], ["dark"]]


def test_the_file_that_is_wrong_is_named(pictures: FakeService) -> None:
    form = {"file": [(BytesIO(png()), "a.png"), (BytesIO(b"no picture"), "b.png")]}
    response = pictures.post_form("/v1/models/model:classify", form)
    assert response.status_code == 400
    assert error(response).startswith("file 2 (b.png) is not a picture; expected PNG")


def test_a_form_without_a_chosen_file_says_so(pictures: FakeService) -> None:
    response = pictures.post_form("/v1/models/model:classify", {"file": (BytesIO(b""), "")})
    assert response.status_code == 400
    assert "is not a picture" in error(response) or "has no file" in error(response)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "multipart/form-data; boundary=b"),
        (b"--b--\r\n", "multipart/form-data; boundary=b"),
        (b"no form", "multipart/form-data; boundary=b"),
        (
            b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\ntext\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
        ),
    ],
)
def test_a_form_without_a_file_is_refused(pictures: FakeService, body: bytes, content_type: str) -> None:
    response = pictures.post("/v1/models/model:classify", body, content_type)
    assert (response.status_code, error(response)) == (
        400,
        "the form has no file; expected one or several pictures as files",
    )


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", "multipart/form-data; boundary=", "Multipart/Form-Data; a=b"]
)
def test_a_form_without_its_boundary_is_told_so(pictures: FakeService, content_type: str) -> None:
    response = pictures.post("/v1/models/model:classify", png(), content_type)
    assert response.status_code == 400
    assert "no boundary; expected `multipart/form-data; boundary=...`" in error(response)


def test_a_form_with_too_many_files_is_told_that_and_not_that_it_is_too_long(pictures: FakeService) -> None:
    form = {"file": [(BytesIO(png()), "a.png") for _ in range(1001)]}
    response = pictures.post_form("/v1/models/model:classify", form)
    assert response.status_code in (400, 413)
    assert "SERVING_MAX_BODY_BYTES" not in error(response)


def test_a_long_text_beside_the_file_of_a_form_does_not_matter(pictures: FakeService) -> None:
    form = {"file": (BytesIO(png(0)), "a.png"), "comment": "x" * 600_000}
    response = pictures.post_form("/v1/models/model:classify?top_k=1", form)
    assert response.status_code == 200 or "SERVING_MAX_BODY_BYTES" not in error(response)


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (b"", 400, "the body is not a picture"),
        (b"<svg/>", 400, "the body is not a picture; expected PNG, JPEG, WebP, AVIF, GIF, BMP or TIFF"),
        (png(size=(90, 90))[:60], 400, "the PNG picture is truncated or damaged"),
        (png(size=(101, 100)), 413, "a picture of 101 x 100 is too large; at most 10000 pixels"),
    ],
)
def test_a_picture_that_cannot_be_taken_is_told_why(
    make_service: Callable[..., FakeService], data: bytes, status: int, words: str
) -> None:
    service = make_service(max_image_pixels=10_000)
    service.add(PICTURES, by_brightness, CLOTHING)
    response = service.post("/v1/models/model:classify", data, "image/png")
    assert response.status_code == status
    assert words in error(response)


def test_a_model_that_takes_no_pictures_says_so(linear: FakeService) -> None:
    response = linear.post("/v1/models/model:predict", png(), "image/png")
    assert response.status_code == 400
    assert "the model takes no pictures" in error(response)


def test_a_picture_may_name_its_signature_in_the_query(pictures: FakeService) -> None:
    assert (
        pictures.post("/v1/models/model:predict?signature_name=serving_default", png(), "image/png").status_code == 200
    )
    response = pictures.post("/v1/models/model:predict?signature_name=other", png(), "image/png")
    assert response.status_code == 400
    assert 'Serving signature key "other" not found' in error(response)


def test_a_picture_without_a_signatures_name_means_the_default(pictures: FakeService) -> None:
    assert pictures.post("/v1/models/model:predict?signature_name=", png(), "image/png").status_code == 200


# Pictures within JSON


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [b64(png(0)), b64(png(255, (30, 30)))]},
        {"instances": [{"pixels": b64(png(0))}, {"pixels": b64(png(255))}]},
        {"inputs": [b64(png(0)), b64(png(255))]},
        {"inputs": {"pixels": [b64(png(0)), b64(png(255))]}},
        {"examples": [{"pixels": b64(png(0))}, {"pixels": b64(png(255))}]},
    ],
)
def test_bytes_in_json_are_pictures_to_a_model_that_takes_these(pictures: FakeService, body: object) -> None:
    assert labels(pictures.post("/v1/models/model:classify?top_k=1", body)) == [["dark"], ["bright"]]


@pytest.mark.parametrize("inputs", [b64(png(128)), {"pixels": b64(png(128))}])
def test_bytes_as_the_only_input_are_one_picture(pictures: FakeService, inputs: object) -> None:
    by_json = pictures.post("/v1/models/model:predict", {"inputs": inputs})
    by_bytes = pictures.post("/v1/models/model:predict", png(128), "image/png")
    assert by_json.get_json() == {"outputs": by_bytes.get_json()["predictions"]}


def test_bytes_in_json_need_no_serving_json_where_the_shape_says_enough(service: FakeService) -> None:
    of = signature({"pixels": tensor("DT_UINT8", -1, 4, 4, 3)}, {"mean": tensor("DT_FLOAT", -1)})
    service.add(of, lambda inputs: {"mean": inputs["pixels"].mean(axis=(1, 2, 3))})
    assert service.post("/v1/models/model:predict", {"instances": [b64(png(7))]}).get_json() == {"predictions": [7.0]}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"instances": [b64(png()), b64(b"<svg/>")]}, 400, "instances[1] is not a picture; expected PNG"),
        ({"instances": [{"pixels": b64(b"")}]}, 400, "instances[0]['pixels'] is not a picture"),
        ({"inputs": b64(b"no")}, 400, "inputs is not a picture"),
        ({"instances": [b64(png(size=(90, 90))[:60])]}, 400, "the PNG picture is truncated or damaged"),
        ({"instances": [b64(png(size=(101, 100)))]}, 413, "a picture of 101 x 100 is too large"),
        ({"instances": [{"b64": "no base64!"}]}, 400, "instances[0]: expected a string or"),
        ({"instances": [b64(png()), [[0] * 8] * 8]}, 400, "instances"),
    ],
)
def test_bytes_in_json_that_are_no_picture_are_told_why(
    make_service: Callable[..., FakeService], body: object, status: int, words: str
) -> None:
    service = make_service(max_image_pixels=10_000)
    service.add(PICTURES, by_brightness, CLOTHING)
    response = service.post("/v1/models/model:classify", body)
    assert response.status_code == status
    assert words in error(response)


def test_bytes_for_an_input_of_strings_stay_bytes(service: FakeService) -> None:
    service.add(signature({"files": tensor("DT_STRING", -1)}, {"y": tensor("DT_INT64", -1)}), lengths)
    response = service.post("/v1/models/model:predict", {"instances": [b64(b"abc")]})
    assert response.get_json() == {"predictions": [3]}


# Classification and regression


def test_labels_are_also_for_json(pictures: FakeService) -> None:
    rows = np.stack([np.zeros((8, 8)), np.full((8, 8), 255)]).tolist()
    assert labels(pictures.post("/v1/models/model:classify?top_k=1", {"instances": rows})) == [["dark"], ["bright"]]


@pytest.mark.parametrize(("top_k", "count"), [("1", 1), ("2", 2), ("3", 3), ("1000", 3), ("0002", 2)])
def test_top_k_labels_come_at_most(pictures: FakeService, top_k: str, count: int) -> None:
    response = pictures.post(f"/v1/models/model:classify?top_k={top_k}", png(), "image/png")
    assert len(response.get_json()["results"][0]) == count


@pytest.mark.parametrize("top_k", ["0", "-1", "", "x", "1.5", "٣", "+1", " 1", "9" * 5000])
def test_a_top_k_that_is_none_is_refused(pictures: FakeService, top_k: str) -> None:
    response = pictures.post(f"/v1/models/model:classify?top_k={top_k}", png(), "image/png")
    if top_k == "9" * 5000:  # a whole number, if a long one
        assert response.status_code in (200, 400)
        return
    assert response.status_code == 400
    assert "expected a whole number of at least 1" in error(response)


def test_classes_and_scores_are_classified_without_labels(service: FakeService) -> None:
    outputs = {"classes": np.array([[b"a", b"b"]], object), "scores": np.array([[0.25, 0.75]], np.float32)}
    service.add(
        signature({"x": any_shape("DT_STRING")}, dict.fromkeys(outputs, any_shape("DT_STRING"))), lambda _: outputs
    )
    response = service.post("/v1/models/model:classify", {"examples": [{"age": 1}]})
    assert response.get_json() == {"results": [[["a", 0.25], ["b", 0.75]]]}


def test_regression_answers_a_number_for_each_example(linear: FakeService) -> None:
    response = linear.post("/v1/models/model:regress", {"examples": [{"x": 10}, {"x": 0}]})
    assert response.get_json() == {"results": [31.0, 1.0]}


def test_a_model_with_several_numbers_a_row_cannot_regress(pictures: FakeService) -> None:
    response = pictures.post("/v1/models/model:regress", png(), "image/png")
    assert response.status_code == 400
    assert "model cannot regress" in error(response)


def test_a_model_of_strings_with_labels_can_be_asked_to_predict(service: FakeService) -> None:
    of = signature({"x": tensor("DT_FLOAT", -1)}, {"names": tensor("DT_STRING", -1, 3)})
    names = np.array([[b"a", b"b", b"c"]], object)
    service.add(of, lambda _: {"names": names}, ServingConfig(labels=LABELS))
    response = service.post("/v1/models/model:predict", {"instances": [1]})
    assert response.get_json() == {"predictions": [["a", "b", "c"]]}


# What is served


def test_the_states_of_a_models_versions_come_newest_first(linear: FakeService) -> None:
    linear.registry.set_status("model", 3, VersionStatus(State.END, error="no saved_model.pb"))
    linear.registry.set_status("model", 2, VersionStatus(State.LOADING))
    assert linear.get("/v1/models/model").get_json() == {
        "model_version_status": [
            {
                "version": "3",
                "state": "END",
                "status": {"error_code": "FAILED_PRECONDITION", "error_message": "no saved_model.pb"},
            },
            {"version": "2", "state": "LOADING", "status": {"error_code": "OK", "error_message": ""}},
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}},
        ]
    }


def test_what_is_available_is_in_order_whatever_becomes_of_its_folder(linear: FakeService) -> None:
    linear.registry.set_failure("model", 1, "broken")
    (status,) = linear.get("/v1/models/model").get_json()["model_version_status"]
    assert (status["state"], status["status"]) == ("AVAILABLE", {"error_code": "OK", "error_message": "broken"})


def test_the_state_of_one_version_can_be_asked_for(linear: FakeService) -> None:
    linear.registry.set_status("model", 2, VersionStatus(State.END, error="broken"))
    (status,) = linear.get("/v1/models/model/versions/2").get_json()["model_version_status"]
    assert (status["version"], status["state"]) == ("2", "END")


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/v1/models/nowhere", 404, "Could not find any versions of model nowhere"),
        ("/v1/models/model/versions/7", 404, "Could not find version 7 of model model"),
        ("/v1/models/model/versions/x", 400, "Failed to convert version: x to numeric"),
        ("/v1/models/model/labels/stable", 400, "Unrecognized servable version label: stable"),
        ("/v1/models/nowhere/metadata", 404, "Servable not found for request: Latest(nowhere)"),
        ("/v1/models/model/versions/7/metadata", 404, "Specific(model, 7)"),
        ("/v1/models/model:predict", 405, "Malformed request: GET /v1/models/model:predict: "),
        ("/v1/models/model/nonsense", 400, "Malformed request: GET"),
        ("/v1", 404, "no such route: GET /v1"),
    ],
)
def test_what_is_not_there_is_told(linear: FakeService, path: str, status: int, words: str) -> None:
    response = linear.get(path)
    assert response.status_code == status
    assert words in error(response)


def test_the_metadata_describe_the_signatures(service: FakeService) -> None:
    service.add(signature({"x": tensor("DT_FLOAT", -1, 28)}, {"y": any_shape("DT_STRING")}), version=3)
    assert service.get("/v1/models/model/metadata").get_json() == {
        "model_spec": {"name": "model", "signature_name": "", "version": "3"},
        "metadata": {
            "signature_def": {
                "signature_def": {
                    "serving_default": {
                        "inputs": {
                            "x": {
                                "dtype": "DT_FLOAT",
                                "tensor_shape": {
                                    "dim": [{"size": "-1", "name": ""}, {"size": "28", "name": ""}],
                                    "unknown_rank": False,
                                },
                                "name": "tensor:0",
                            }
                        },
                        "outputs": {
                            "y": {
                                "dtype": "DT_STRING",
                                "tensor_shape": {"dim": [], "unknown_rank": True},
                                "name": "tensor:0",
                            }
                        },
                        "method_name": "tensorflow/serving/predict",
                        "defaults": {},
                    }
                }
            }
        },
    }


def test_the_models_are_listed_by_name(service: FakeService) -> None:
    assert service.get("/v1/models").get_json() == {"models": []}
    service.add(LINEAR, model="b")
    service.add(LINEAR, model="a")
    assert service.get("/v1/models").get_json() == {"models": ["a", "b"]}


@pytest.mark.parametrize("model", ["my model", "a%b", "ünïcode", "a.b-c_d"])
def test_a_model_may_have_any_name_that_a_folder_has(service: FakeService, model: str) -> None:
    service.add(LINEAR, times_three_plus_one, model=model)
    path = f"/v1/models/{model.replace('%', '%25')}"
    assert service.post(f"{path}:predict", {"instances": [10]}).get_json() == {"predictions": [31.0]}
    assert service.get(path).status_code == 200


# Metrics


def test_requests_are_counted_by_model_version_verb_and_status(linear: FakeService) -> None:
    for body in ({"instances": [1]}, {"instances": [1]}, {}):
        linear.post("/v1/models/model:predict", body)
    linear.get("/v1/models/model/metadata")
    series = 'serving_requests_total{{model="model",protocol="v1",status="{}",verb="{}",version="1"}}'
    assert linear.sample(series.format(200, "predict")) == "2.0"
    assert linear.sample(series.format(400, "predict")) == "1.0"
    assert linear.sample(series.format(200, "metadata")) == "1.0"
    seconds = 'serving_request_duration_seconds_count{model="model",protocol="v1",verb="predict",version="1"}'
    assert linear.sample(seconds) == "3.0"


def test_no_client_can_make_up_new_series(linear: FakeService) -> None:
    for number in range(5):
        linear.post(f"/v1/models/nowhere{number}:predict", {"instances": [1]})
        linear.post(f"/v1/models/model/versions/{number + 5}:predict", {"instances": [1]})
        linear.post(f"/v1/models/model:verb{number}", {"instances": [1]})
    page = linear.get("/metrics").text
    lines = [line for line in page.splitlines() if line.startswith("serving_requests_total{")]
    assert lines == ['serving_requests_total{model="",protocol="v1",status="404",verb="predict",version=""} 10.0']


def test_a_sigmoid_output_of_two_labels_is_classified_and_counted_by_label(service: FakeService) -> None:
    binary = signature({"x": tensor("DT_FLOAT", -1, 1)}, {"p": tensor("DT_FLOAT", -1, 1)})
    service.add(binary, lambda inputs: {"p": inputs["x"]}, ServingConfig(labels=("cat", "dog")))
    response = service.post("/v1/models/model:classify", {"instances": [[0.75], [0.25], [1.0]]})
    assert response.get_json() == {
        "results": [[["dog", 0.75], ["cat", 0.25]], [["cat", 0.75], ["dog", 0.25]], [["dog", 1.0], ["cat", 0.0]]]
    }
    assert service.sample('serving_prediction_total{label="dog",model="model",version="1"}') == "2.0"
    assert service.sample('serving_prediction_total{label="cat",model="model",version="1"}') == "1.0"
