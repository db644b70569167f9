import logging

import pytest
from flask import Flask, abort, request
from prometheus_client import CollectorRegistry

from service.api import flask_views
from service.errors import GraphError, InvalidRequest, NotFound, PayloadTooLarge, ServingError, Unavailable
from service.inference import context
from service.inference.deadline import DeadlineExceeded
from service.metrics.definitions import Metrics
from tests.unit.service.fakes import error

RAISED: dict[str, Exception] = {
    "invalid": InvalidRequest("no rows"),
    "not_found": NotFound("no such model"),
    "too_large": PayloadTooLarge("too many pixels"),
    "unavailable": Unavailable("still loading"),
    "too_late": DeadlineExceeded("longer than 5 ms"),
    "graph": GraphError("the model refuses this input: none.wav", 404),
    "no_memory": GraphError("the model failed: no memory", 429),
    "serving": ServingError("the output has no JSON form"),
    "bug": ZeroDivisionError("secret"),
}


@pytest.fixture
def app() -> Flask:
    app = Flask(__name__)
    context.register(app, Metrics(CollectorRegistry()))
    flask_views.register(app)

    @app.get("/raise/<name>")
    def fail(name: str) -> str:
        raise RAISED[name]

    @app.get("/teapot")
    def teapot() -> str:
        abort(418)

    @app.post("/read")
    @app.post("/v1/read")
    def read() -> str:
        return str(len(request.get_data()))

    return app


@pytest.mark.parametrize(
    ("name", "status"),
    [("invalid", 400), ("not_found", 404), ("too_large", 413), ("unavailable", 503), ("serving", 500), ("graph", 404)],
)
def test_an_error_answers_with_its_own_status_and_words(app: Flask, name: str, status: int) -> None:
    response = app.test_client().get(f"/raise/{name}")
    assert (response.status_code, error(response)) == (status, str(RAISED[name]))


@pytest.mark.parametrize(("name", "seconds"), [("unavailable", "1"), ("no_memory", "1"), ("graph", None)])
def test_who_may_come_again_is_told_when(app: Flask, name: str, seconds: str | None) -> None:
    assert app.test_client().get(f"/raise/{name}").headers.get("Retry-After") == seconds


@pytest.mark.parametrize("name", ["invalid", "not_found", "too_large", "unavailable", "too_late", "graph"])
def test_what_is_no_bug_is_not_logged(app: Flask, name: str, caplog: pytest.LogCaptureFixture) -> None:
    app.test_client().get(f"/raise/{name}")
    assert caplog.records == []


@pytest.mark.parametrize("name", ["serving", "bug"])
def test_our_own_mistakes_are_logged_with_the_request_and_the_traceback(
    app: Flask, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    app.test_client().get(f"/raise/{name}")
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    request_id = record.__dict__["request_id"]
    assert record.message == f"GET /raise/{name} failed (request {request_id})"
    assert str(RAISED[name]) in caplog.text


def test_a_bug_tells_the_client_nothing_of_our_inside(app: Flask) -> None:
    response = app.test_client().get("/raise/bug")
    assert (response.status_code, error(response)) == (500, "internal error; the service's log has the details")


def test_an_unknown_route_is_named(app: Flask) -> None:
    response = app.test_client().get("/nowhere?x=1")
    assert (response.status_code, error(response)) == (404, "no such route: GET /nowhere")


def test_a_wrong_method_says_which_ones_are_taken(app: Flask) -> None:
    response = app.test_client().get("/read")
    assert (response.status_code, error(response)) == (405, "/read does not take GET; it takes OPTIONS, POST")
    assert response.headers.getlist("Content-Type") == ["application/json"]
    assert set(response.headers["Allow"].split(", ")) == {"OPTIONS", "POST"}


def test_below_v1_a_wrong_method_has_tensorflow_servings_words_too(app: Flask) -> None:
    response = app.test_client().get("/v1/read")
    assert response.status_code == 405
    assert error(response) == "Malformed request: GET /v1/read: /v1/read does not take GET; it takes OPTIONS, POST"
    assert set(response.headers["Allow"].split(", ")) == {"OPTIONS", "POST"}


@pytest.mark.parametrize("path", ["/v1/nowhere", "/v1/models/x:frobnicate"])
def test_below_v1_a_wrong_route_is_answered_as_tensorflow_serving_does(app: Flask, path: str) -> None:
    response = app.test_client().get(path)
    assert (response.status_code, error(response)) == (400, f"Malformed request: GET {path}")


def test_other_http_errors_keep_their_status_and_words(app: Flask) -> None:
    response = app.test_client().get("/teapot")
    assert response.status_code == 418
    assert "teapot" in error(response)
