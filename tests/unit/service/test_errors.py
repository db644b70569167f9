import logging
from dataclasses import dataclass, field
from io import BytesIO

import pytest
from flask import Flask, abort, request

from service import errors
from service.errors import InvalidRequest, NotFound, PayloadTooLarge, ServingError, Unavailable
from tests.unit.service.fakes import error

MAX_BODY_BYTES = 10

RAISED: dict[str, Exception] = {
    "invalid": InvalidRequest("no rows"),
    "not_found": NotFound("no such model"),
    "too_large": PayloadTooLarge("too many pixels"),
    "unavailable": Unavailable("still loading"),
    "serving": ServingError("the output has no JSON form"),
    "bug": ZeroDivisionError("secret"),
}


@pytest.fixture
def app() -> Flask:
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    errors.register(app, MAX_BODY_BYTES)

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
    [("invalid", 400), ("not_found", 404), ("too_large", 413), ("unavailable", 503), ("serving", 500)],
)
def test_an_error_answers_with_its_own_status_and_words(app: Flask, name: str, status: int) -> None:
    response = app.test_client().get(f"/raise/{name}")
    assert (response.status_code, error(response)) == (status, str(RAISED[name]))


@pytest.mark.parametrize("name", ["invalid", "not_found", "too_large"])
def test_the_clients_mistakes_are_not_logged(app: Flask, name: str, caplog: pytest.LogCaptureFixture) -> None:
    app.test_client().get(f"/raise/{name}")
    assert caplog.records == []


@pytest.mark.parametrize("name", ["serving", "bug"])
def test_our_own_mistakes_are_logged_with_the_request_and_the_traceback(
    app: Flask, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    app.test_client().get(f"/raise/{name}")
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.message == f"GET /raise/{name} failed"
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


@pytest.mark.parametrize("path", ["/v1/nowhere", "/v1/read", "/v1/models/x:frobnicate"])
def test_below_v1_a_wrong_route_or_method_is_answered_as_tensorflow_serving_does(app: Flask, path: str) -> None:
    response = app.test_client().get(path)
    assert (response.status_code, error(response)) == (400, f"Malformed request: GET {path}")


def test_other_http_errors_keep_their_status_and_words(app: Flask) -> None:
    response = app.test_client().get("/teapot")
    assert response.status_code == 418
    assert "teapot" in error(response)


def test_a_body_that_is_too_long_says_how_long_it_may_be(app: Flask) -> None:
    assert app.test_client().post("/read", data=b"x" * 10).data == b"10"
    body = BytesIO(b"x" * 60)
    response = app.test_client().post("/read", input_stream=body)
    assert (response.status_code, error(response)) == (
        413,
        "a body of 60 bytes is too long: at most 10 bytes are taken (SERVING_MAX_BODY_BYTES)",
    )
    # The client, which may send all of it before it looks for an answer, is heard out.
    assert body.read() == b""


def test_a_client_that_sends_without_end_is_not_heard_out(app: Flask) -> None:
    body = BytesIO(b"x" * 1000)
    response = app.test_client().post("/read", input_stream=body)
    assert response.status_code == 413
    assert len(body.read()) == 1000 - 8 * MAX_BODY_BYTES


@dataclass
class FakeConnection:
    timeouts: list[float | None] = field(default_factory=list)

    def settimeout(self, seconds: float | None) -> None:
        self.timeouts.append(seconds)


class Stalled(BytesIO):
    """A client that announces a body, sends the beginning and then no more."""

    def read(self, size: int | None = -1) -> bytes:
        if data := super().read(size):
            return data
        raise TimeoutError("timed out")


@pytest.mark.parametrize("sent", [0, 30])
def test_a_client_that_announces_a_long_body_and_does_not_send_it_is_answered_all_the_same(
    app: Flask, sent: int
) -> None:
    connection = FakeConnection()
    response = app.test_client().post(
        "/read",
        input_stream=Stalled(b"x" * sent),
        environ_overrides={"gunicorn.socket": connection, "CONTENT_LENGTH": "60"},
    )
    assert response.status_code == 413
    *waits, last = connection.timeouts
    assert waits
    assert all(wait is not None and 0 < wait <= errors.DISCARD_SECONDS for wait in waits)
    assert last is None


def test_a_client_that_takes_too_long_to_send_its_long_body_is_not_heard_out(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "DISCARD_SECONDS", 0)
    body = BytesIO(b"x" * 60)
    assert app.test_client().post("/read", input_stream=body).status_code == 413
    assert len(body.read()) == 60


def test_a_client_that_hangs_up_amid_its_long_body_is_no_error_of_ours(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    response = app.test_client().post(
        "/read", input_stream=BytesIO(b"x" * 20), environ_overrides={"CONTENT_LENGTH": "60"}
    )
    assert response.status_code == 413
    assert caplog.records == []
