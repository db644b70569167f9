import pytest

from service.http import Response
from service.security.cors import Cors, is_preflight
from service.settings import parse_origins

ORIGIN = b"https://app.example"
PREFLIGHT = {
    b"origin": ORIGIN,
    b"access-control-request-method": b"POST",
    b"access-control-request-headers": b"content-type,x-api-key",
}


def access(response: Response) -> dict[str, str]:
    prefix = "access-control-"
    return {name.removeprefix(prefix): value for name, value in response.headers if prefix in name}


def test_preflight() -> None:
    response = Cors(parse_origins("https://other.example, https://app.example")).preflight(PREFLIGHT)
    assert response.status == 200
    assert access(response) == {
        "allow-methods": "GET, HEAD, POST",
        "allow-headers": "content-type,x-api-key",
        "max-age": "7200",
    }


def test_preflight_of_another_origin_is_403() -> None:
    response = Cors(parse_origins("https://other.example")).preflight(PREFLIGHT)
    assert response.status == 403
    assert b"'https://app.example' may not read answers (SERVING_CORS_ORIGINS)" in response.body


@pytest.mark.parametrize("names", [b"x y", b"a,,b", b"a\xe9", b"a," * 3000 + b"a"])
def test_invalid_header_names_are_not_allowed(names: bytes) -> None:
    response = Cors(parse_origins("*")).preflight({**PREFLIGHT, b"access-control-request-headers": names})
    assert response.status == 200
    assert "allow-headers" not in access(response)


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", PREFLIGHT),
        ("OPTIONS", {b"origin": ORIGIN}),
        ("OPTIONS", {b"access-control-request-method": b"POST"}),
        ("OPTIONS", {**PREFLIGHT, b"content-length": b"4"}),
        ("OPTIONS", {**PREFLIGHT, b"transfer-encoding": b"chunked"}),
    ],
)
def test_no_preflight(method: str, headers: dict[bytes, bytes]) -> None:
    assert not is_preflight(method, headers)


@pytest.mark.parametrize(
    ("origins", "origin", "allowed", "vary"),
    [
        ("https://app.example", ORIGIN, "https://app.example", ["origin"]),
        ("*", ORIGIN, "*", []),
        ("https://other.example *", ORIGIN, "*", []),
        ("https://other.example", ORIGIN, None, ["origin"]),
        ("https://app.example", None, None, ["origin"]),
    ],
)
def test_listed_origins_may_read_responses(
    origins: str, origin: bytes | None, allowed: str | None, vary: list[str]
) -> None:
    plain = Response(200, b"", headers=(("etag", "a"),))
    response = Cors(parse_origins(origins)).with_headers(plain, {} if origin is None else {b"origin": origin})
    assert response.headers[0] == ("etag", "a")
    exposed = "Inference-Header-Content-Length, Outlier-Score, Retry-After, X-Request-ID"
    assert access(response) == ({"allow-origin": allowed, "expose-headers": exposed} if allowed else {})
    assert [value for name, value in response.headers if name == "vary"] == vary
