import pytest

from service.stores.errors import of_library, of_status

SECRET = "https://u:secret@h/k?sig=secret"


class PermissionDeniedError(Exception): ...


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            Exception(f"{SECRET} status: 403: <Code>NotSigned</Code>"),
            "denied",
            "it denies access (HTTP 403, NotSigned)",
        ),
        (PermissionDeniedError(SECRET), "denied", "it denies access (HTTP 403)"),
        (FileNotFoundError(SECRET), "missing", "there is no such bucket or object (HTTP 404)"),
        (Exception(f"GET {SECRET} status code: 503 Slow"), "throttled", "it asks for fewer requests (HTTP 503)"),
        (Exception(f"GET {SECRET} status code: 500 Bad"), "unreachable", "it fails (HTTP 500)"),
        (Exception(f"GET {SECRET} status code: 400 Bad"), "other", "it rejects the request (HTTP 400)"),
        (Exception(f"{SECRET}: Connection refused"), "unreachable", "it refuses connections"),
        (Exception(f"{SECRET}: certificate verify failed"), "unreachable", "its certificate is not trusted"),
        (Exception(f"{SECRET} http://169.254.169.254/x: 403"), "denied", "no credentials for it were found"),
        (Exception(SECRET), "other", "its client failed (Exception)"),
    ],
)
def test_errors_are_told_without_secrets(error: Exception, kind: str, message: str) -> None:
    found = of_library(error)
    assert found.kind == kind
    assert str(found).startswith(message)
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7), ("86400", 3600), ("Thu, 01 Jan 2026 00:00:00 GMT", 0), ("-1", 0), (None, 0)]
)
def test_retry_after(header: str | None, seconds: float) -> None:
    assert of_status(503, retry_after=header).retry_after == seconds
