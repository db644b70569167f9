"""Pages of other origins: what a browser is told, and what it is not."""

import pytest

from service.http import Request, Response, error_response
from service.security.cors import Cors
from service.server.connection import Connections, CorsConnection
from service.settings import parse_origins
from tests.unit.service.fakes import FakeTransport
from tests.unit.service.server.clients import Client, Echo, connect, post

ORIGIN = b"Origin: https://app.example"
PREFLIGHT = (
    b"OPTIONS /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nOrigin: https://app.example\r\n"
    b"Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type,x-api-key\r\n\r\n"
)
PREDICT = post(b"body", ORIGIN)


def nobody_comes_in(_request: Request) -> Response | None:
    return error_response(401, "no key")


def everybody_comes_in(_request: Request) -> Response | None:
    return None


def client_of(origins: str, *, needs_key: bool = False) -> Client:
    echo = Echo()
    admit = nobody_comes_in if needs_key else everybody_comes_in
    connection = CorsConnection(Cors(parse_origins(origins)), echo, Connections(), 100, admit)
    transport = FakeTransport()
    connection.connection_made(transport)
    return Client(echo, transport, connection)


def headers_of(client: Client) -> dict[str, list[str]]:
    lines = client.transport.written.decode("latin-1").partition("\r\n\r\n")[0].split("\r\n")[1:]
    headers: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        headers.setdefault(name, []).append(value)
    return headers


def access(client: Client) -> dict[str, str]:
    prefix = "access-control-"
    return {name.removeprefix(prefix): value for name, (value, *_) in headers_of(client).items() if prefix in name}


def test_a_preflight_is_told_what_a_page_may_send() -> None:
    client = client_of("https://other.example, https://app.example")
    client.send(PREFLIGHT)
    assert client.statuses == [200]
    assert access(client) == {
        "allow-origin": "https://app.example",
        "allow-methods": "GET, HEAD, POST",
        "allow-headers": "content-type,x-api-key",
        "max-age": "7200",
        "expose-headers": "Inference-Header-Content-Length, Outlier-Score, Retry-After, X-Request-ID",
    }
    assert headers_of(client)["vary"] == ["origin"]
    assert client.echo.requests == []
    assert not client.is_closed


def test_a_preflight_needs_no_key_and_what_follows_it_does() -> None:
    client = client_of("*", needs_key=True)
    client.send(PREFLIGHT + PREDICT)
    assert client.statuses == [200, 401]
    assert client.transport.written.count(b"access-control-allow-origin: *\r\n") == 2


@pytest.mark.parametrize(
    "request_",
    [
        PREFLIGHT.replace(b"OPTIONS", b"POST"),
        PREFLIGHT.replace(b"Access-Control-Request-Method", b"X"),
        PREFLIGHT.replace(b"Origin", b"X"),
        PREFLIGHT.replace(b"\r\n\r\n", b"\r\nContent-Length: 4\r\n\r\nbody"),
        PREFLIGHT.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
    ],
)
def test_what_only_looks_like_a_preflight_needs_a_key(request_: bytes) -> None:
    client = client_of("*", needs_key=True)
    client.send(request_)
    assert client.statuses == [401]


def test_a_preflight_of_a_page_that_may_not_is_told_so() -> None:
    client = client_of("https://other.example")
    client.send(PREFLIGHT)
    assert client.statuses == [403]
    assert b"'https://app.example' may not read answers (SERVING_CORS_ORIGINS)" in client.transport.written
    assert access(client) == {}


@pytest.mark.parametrize("names", [b"x y", b"a,,b", b"a\xe9", b"a," * 3000 + b"a"])
def test_names_of_headers_that_are_none_are_not_allowed(names: bytes) -> None:
    client = client_of("*")
    client.send(PREFLIGHT.replace(b"content-type,x-api-key", names))
    assert client.statuses == [200]
    assert "allow-headers" not in access(client)


@pytest.mark.parametrize(
    ("origins", "told", "vary"),
    [
        ("https://app.example", "https://app.example", ["origin"]),
        ("*", "*", []),
        ("https://other.example *", "*", []),
        ("https://other.example", None, ["origin"]),
    ],
)
def test_an_answer_may_be_read_by_the_pages_that_are_listed(origins: str, told: str | None, vary: list[str]) -> None:
    client = client_of(origins)
    client.send(PREDICT)
    assert client.statuses == [200]
    assert access(client).get("allow-origin") == told
    assert headers_of(client).get("vary", []) == vary


def test_an_answer_to_nobodys_page_tells_caches_that_it_would_differ() -> None:
    client = client_of("https://app.example")
    client.send(post(b"body"))
    assert access(client) == {}
    assert headers_of(client)["vary"] == ["origin"]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (post(b"x" * 101, ORIGIN), 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\n" + ORIGIN + b"\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: x\r\n" + ORIGIN + b"\r\nContent-Length: 9\r\n\r\nb", 408),
    ],
)
def test_a_refusal_may_be_read_as_well(sent: bytes, status: int) -> None:
    client = client_of("https://app.example")
    client.send(sent)
    client.later(40)
    assert client.statuses == [status]
    assert access(client)["allow-origin"] == "https://app.example"


def test_a_long_answer_is_still_packed() -> None:
    client = client_of("https://app.example")
    path = b"/" + b"long" * 500
    client.send(post(b"", ORIGIN, b"Accept-Encoding: gzip", path=path))
    assert headers_of(client)["content-encoding"] == ["gzip"]
    assert headers_of(client)["vary"] == ["accept-encoding", "origin"]


def test_without_the_setting_no_page_of_another_origin_reads_anything() -> None:
    client = connect()
    client.send(PREDICT)
    assert access(client) == {}
