import pytest

from service.http import Response
from service.security.cors import Cors, is_preflight
from service.settings import parse_origins

ORIGIN = {b"origin": b"https://app.example"}
PREFLIGHT = {
    **ORIGIN,
    b"access-control-request-method": b"POST",
    b"access-control-request-headers": b"content-type,x-api-key",
}


def test_preflight() -> None:
    response = Cors(parse_origins("https://other.example, https://app.example")).preflight(PREFLIGHT)
    assert response.status == 200
    assert dict(response.headers) == {
        "access-control-allow-methods": "GET, HEAD, POST",
        "access-control-allow-headers": "content-type,x-api-key",
        "access-control-max-age": "7200",
    }


def test_preflight_of_another_origin_is_403() -> None:
    response = Cors(parse_origins("https://other.example")).preflight(PREFLIGHT)
    assert response.status == 403
    assert b"'https://app.example' may not read answers (SERVING_CORS_ORIGINS)" in response.body


@pytest.mark.parametrize("names", [b"x y", b"a,,b", b"a\xe9", b"a," * 3000 + b"a"])
def test_invalid_header_names_are_not_allowed(names: bytes) -> None:
    response = Cors(parse_origins("*")).preflight({**PREFLIGHT, b"access-control-request-headers": names})
    assert response.status == 200
    assert "access-control-allow-headers" not in dict(response.headers)


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", PREFLIGHT),
        ("OPTIONS", ORIGIN),
        ("OPTIONS", {b"access-control-request-method": b"POST"}),
        ("OPTIONS", {**PREFLIGHT, b"content-length": b"4"}),
        ("OPTIONS", {**PREFLIGHT, b"transfer-encoding": b"chunked"}),
    ],
)
def test_no_preflight(method: str, headers: dict[bytes, bytes]) -> None:
    assert not is_preflight(method, headers)


@pytest.mark.parametrize(
    ("origins", "headers", "allowed", "vary"),
    [
        ("https://app.example", ORIGIN, "https://app.example", "origin"),
        ("https://other.example *", ORIGIN, "*", None),
        ("https://other.example", ORIGIN, None, "origin"),
        ("https://app.example", {}, None, "origin"),
    ],
)
def test_listed_origins_may_read_responses(
    origins: str, headers: dict[bytes, bytes], allowed: str | None, vary: str | None
) -> None:
    plain = Response(200, b"", headers=(("etag", "a"),))
    found = dict(Cors(parse_origins(origins)).with_headers(plain, headers).headers)
    assert (found["etag"], found.get("vary"), found.get("access-control-allow-origin")) == ("a", vary, allowed)
    exposed = "Inference-Header-Content-Length, Outlier-Score, Retry-After, X-Request-ID"
    assert found.get("access-control-expose-headers") == (exposed if allowed else None)
