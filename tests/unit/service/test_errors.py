import logging
from pathlib import Path

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
    without_paths,
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
def test_an_error_has_its_status_and_message(name: str, status: int) -> None:
    response = respond(name)
    assert (response.status, orjson.loads(response.body)) == (status, {"error": str(RAISED[name])})


@pytest.mark.parametrize(("name", "seconds"), [("unavailable", "1"), ("no_memory", "1"), ("graph", None)])
def test_retry_after(name: str, seconds: str | None) -> None:
    assert dict(respond(name).headers).get("retry-after") == seconds


@pytest.mark.parametrize("name", ["invalid", "not_found", "too_large", "unavailable", "too_late", "graph"])
def test_only_bugs_are_logged(name: str, caplog: pytest.LogCaptureFixture) -> None:
    respond(name)
    assert caplog.records == []


@pytest.mark.parametrize("name", ["serving", "bug"])
def test_bugs_are_logged_with_request_and_traceback(name: str, caplog: pytest.LogCaptureFixture) -> None:
    respond(name)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.__dict__["request_id"] == "mine"
    assert record.message == f"GET /raise/{name} failed (request mine)"
    assert str(RAISED[name]) in caplog.text


def test_a_bug_tells_the_client_nothing() -> None:
    response = respond("bug")
    message = {"error": "internal error; the service's log has the details"}
    assert (response.status, orjson.loads(response.body)) == (500, message)


FOLDER = Path("/srv/my models/clothing/2")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "[Errno 21] Is a directory: '/srv/my models/clothing/2/model.tflite'",
            "[Errno 21] Is a directory: 'model.tflite'",
        ),
        ("/srv/my models/clothing/2 holds nothing", "its folder holds nothing"),
        ("/opt/venv/lib/python3.11/site-packages/x/y.so: undefined symbol", "y.so: undefined symbol"),
        ("vocabulary (/home/alice/words.txt) is missing", "vocabulary (words.txt) is missing"),
        ("open /usr/lib/ failed", "open  failed"),
        ("assets.extra/serving.json: no", "assets.extra/serving.json: no"),
        ("expected 1/2, and/or http://example.org/a/b", "expected 1/2, and/or http://example.org/a/b"),
    ],
)
def test_paths_are_shortened(message: str, expected: str) -> None:
    assert without_paths(message, FOLDER) == expected


def test_a_relative_folder_is_left_out() -> None:
    assert without_paths("models/m/1/variables are missing", Path("models/m/1")) == "variables are missing"
