import logging

import orjson
import pytest

from service.errors import (
    GraphError,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    ServingError,
    Unavailable,
    response_to_error,
)
from service.http import Response
from service.inference.deadline import DeadlineExceeded

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


def respond(name: str) -> Response:
    return response_to_error(RAISED[name], "GET", f"/raise/{name}", "mine")


@pytest.mark.parametrize(
    ("name", "status"),
    [("invalid", 400), ("not_found", 404), ("too_large", 413), ("unavailable", 503), ("serving", 500), ("graph", 404)],
)
def test_an_error_has_its_own_status_and_words(name: str, status: int) -> None:
    response = respond(name)
    assert (response.status, orjson.loads(response.body)) == (status, {"error": str(RAISED[name])})


@pytest.mark.parametrize(("name", "seconds"), [("unavailable", "1"), ("no_memory", "1"), ("graph", None)])
def test_retry_after(name: str, seconds: str | None) -> None:
    assert dict(respond(name).headers).get("retry-after") == seconds


@pytest.mark.parametrize("name", ["invalid", "not_found", "too_large", "unavailable", "too_late", "graph"])
def test_what_is_no_bug_is_not_logged(name: str, caplog: pytest.LogCaptureFixture) -> None:
    respond(name)
    assert caplog.records == []


@pytest.mark.parametrize("name", ["serving", "bug"])
def test_bugs_are_logged_with_the_request_and_the_traceback(name: str, caplog: pytest.LogCaptureFixture) -> None:
    respond(name)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.__dict__["request_id"] == "mine"
    assert record.message == f"GET /raise/{name} failed (request mine)"
    assert str(RAISED[name]) in caplog.text


def test_a_bug_tells_the_client_nothing() -> None:
    response = respond("bug")
    message = {"error": "internal error; the service's log has the details"}
    assert (response.status, orjson.loads(response.body)) == (500, message)
