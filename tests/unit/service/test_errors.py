from pathlib import Path

import orjson
import pytest

from service.errors import GraphError, InvalidRequest, ServingError, Unavailable, response_to_error, without_paths


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (InvalidRequest("no rows"), 400, None),
        (Unavailable("still loading"), 503, "1"),
        (GraphError("the model refuses this input", 404), 404, None),
        (GraphError("no memory", 429), 429, "1"),
    ],
)
def test_error_has_its_status_and_message_and_is_not_logged(
    error: ServingError, status: int, retry_after: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    response = response_to_error(error, "GET", "/x", "mine")
    assert (response.status, orjson.loads(response.body)) == (status, {"error": str(error)})
    assert dict(response.headers).get("retry-after") == retry_after
    assert caplog.records == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ServingError("the output has no JSON form"), "the output has no JSON form"),
        (ZeroDivisionError("secret"), "internal error; the service's log has the details"),
    ],
)
def test_bug_is_500_and_logged_with_request_and_traceback(
    error: Exception, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    response = response_to_error(error, "GET", "/x", "mine")
    assert (response.status, orjson.loads(response.body)) == (500, {"error": message})
    (record,) = caplog.records
    assert (record.levelname, record.__dict__["request_id"]) == ("ERROR", "mine")
    assert record.message == "GET /x failed (request mine)"
    assert str(error) in caplog.text


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Is a directory: '/srv/my models/clothing/2/model.tflite'", "Is a directory: 'model.tflite'"),
        ("/srv/my models/clothing/2 holds nothing", "its folder holds nothing"),
        ("/opt/venv/lib/python3.11/site-packages/x/y.so: undefined symbol", "y.so: undefined symbol"),
        ("vocabulary (/home/alice/words.txt) is missing", "vocabulary (words.txt) is missing"),
        ("open /usr/lib/ failed", "open  failed"),
        ("assets.extra/serving.json: no", "assets.extra/serving.json: no"),
        ("expected 1/2, and/or http://example.org/a/b", "expected 1/2, and/or http://example.org/a/b"),
    ],
)
def test_paths_are_shortened(message: str, expected: str) -> None:
    assert without_paths(message, Path("/srv/my models/clothing/2")) == expected
    assert without_paths("models/m/1/variables are missing", Path("models/m/1")) == "variables are missing"
