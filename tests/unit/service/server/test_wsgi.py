from collections.abc import Iterator
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from service.http import WSGI_REQUEST
from service.server.wsgi import environ, run_wsgi
from tests.unit.service.fakes import request

ADDRESS = ("127.0.0.1", 8501)


def test_environ() -> None:
    # The last would pass for X-API-Key.
    headers = {b"host": b"x:1", b"content-type": b"text/plain", b"accept": b"a,b", b"x_api_key": b"stolen"}
    sent = request(b"/a%20b/%C3%BC?q=1%202", b"body", headers=headers)
    values = environ(sent, ADDRESS)
    assert values.pop("wsgi.input").read() == b"body"
    assert values.pop(WSGI_REQUEST) is sent
    assert {name: value for name, value in values.items() if name.isupper()} == {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a b/ü".encode().decode("latin-1"),
        "QUERY_STRING": "q=1%202",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_TYPE": "text/plain",
        "CONTENT_LENGTH": "4",
        "HTTP_HOST": "x:1",
        "HTTP_ACCEPT": "a,b",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8501",
    }


def test_headers_that_the_connection_writes_are_dropped() -> None:
    def app(_environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("Date", "today"), ("Content-Length", "2"), ("Connection", "close"), ("ETag", "it")])
        return [b"ok"]

    response = run_wsgi(app, request(method="GET"), ADDRESS)
    assert (response.status, response.body, response.headers) == (200, b"ok", (("etag", "it"),))


def test_app_that_fails_halfway_is_closed() -> None:
    class Body:
        is_closed = False

        def __iter__(self) -> Iterator[bytes]:
            raise ZeroDivisionError

        def close(self) -> None:
            self.is_closed = True

    body = Body()
    with pytest.raises(ZeroDivisionError):
        run_wsgi(lambda _environ, _start: body, request(method="GET"), ADDRESS)
    assert body.is_closed
