from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from service.http import WSGI_REQUEST
from service.server.wsgi import environ, run_wsgi
from tests.unit.service.fakes import request

ADDRESS = ("127.0.0.1", 8501)


def test_environ() -> None:
    headers = {
        b"host": b"x:1",
        b"content-type": b"text/plain",
        b"accept": b"a,b",
        # It would pass for X-API-Key.
        b"x_api_key": b"stolen",
    }
    sent = request(b"/a%20b/%C3%BC?q=1%202", b"body", headers=headers)
    values = environ(sent, ADDRESS)
    assert values["REQUEST_METHOD"] == "POST"
    assert values["PATH_INFO"].encode("latin-1").decode() == "/a b/ü"
    assert values["QUERY_STRING"] == "q=1%202"
    assert (values["CONTENT_TYPE"], values["CONTENT_LENGTH"]) == ("text/plain", "4")
    assert (values["HTTP_HOST"], values["HTTP_ACCEPT"]) == ("x:1", "a,b")
    assert (values["SERVER_NAME"], values["SERVER_PORT"]) == ("127.0.0.1", "8501")
    assert values["wsgi.input"].read() == b"body"
    assert values[WSGI_REQUEST] is sent
    assert "HTTP_X_API_KEY" not in values


def test_headers_that_the_connection_writes_are_dropped() -> None:
    def app(_environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("Date", "today"), ("Content-Length", "2"), ("Connection", "close"), ("ETag", "it")])
        return [b"ok"]

    response = run_wsgi(app, request(method="GET"), ADDRESS)
    assert (response.status, response.body, response.headers) == (200, b"ok", (("etag", "it"),))


def test_app_that_fails_halfway_is_closed() -> None:
    class Body:
        is_closed = False

        def __iter__(self) -> "Body":
            return self

        def __next__(self) -> bytes:
            raise ZeroDivisionError

        def close(self) -> None:
            self.is_closed = True

    body = Body()
    with pytest.raises(ZeroDivisionError):
        run_wsgi(lambda _environ, _start: body, request(method="GET"), ADDRESS)
    assert body.is_closed
