"""What goes wrong with a store, in words that hold nothing of a credential."""

import re

from service.runtime.fetching import FailureKind

_STATUS = re.compile(r"\bstatus(?: code)?:? ?\(?([45]\d\d)\b|\b([45]\d\d) [A-Z][a-z]+")
# As S3 and Azure name what is wrong: NoSuchBucket, SignatureDoesNotMatch.
_CODE = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
_KIND_BY_STATUS: dict[int, FailureKind] = {
    401: "denied",
    403: "denied",
    404: "missing",
    409: "changed",
    410: "missing",
    412: "changed",
    416: "changed",
    429: "throttled",
    503: "throttled",
}
# What a client library says of a connection, and what it means. Its own words may hold a URL.
_TROUBLES = (
    ("certificate", "its certificate is not trusted"),
    ("dns error", "its name cannot be resolved"),
    ("name or service", "its name cannot be resolved"),
    ("connection refused", "it refuses connections"),
    ("timed out", "it did not answer in time"),
    ("timedout", "it did not answer in time"),
    ("response body", "the connection was cut off"),
    ("reading a body", "the connection was cut off"),
    ("content-range", "the connection was cut off"),
    ("sending request", "it cannot be connected to"),
)
_WORDS: dict[FailureKind, str] = {
    "denied": "it denies access",
    "missing": "there is no such bucket or object",
    "changed": "a file was changed while it was being fetched",
    "throttled": "it asks for fewer requests",
    "unreachable": "it fails",
    "other": "it rejects the request",
}
# Where obstore looks for the identity of an instance or workload, in the end.
_IDENTITY = re.compile(r"169\.254\.|fd00:ec2::|metadata\.google|TokenRequest|/token\b|AssumeRole", re.IGNORECASE)


class StoreError(Exception):
    """`retry_after`: how long the store wants to be left alone, in seconds."""

    def __init__(self, kind: FailureKind, message: str, retry_after: float = 0) -> None:
        super().__init__(message)
        self.kind = kind
        self.retry_after = retry_after


def of_status(status: int, code: str = "", retry_after: str | None = None) -> StoreError:
    """`code`: the store's name for what is wrong. `retry_after`: the header; a date in it is not read."""
    kind = _KIND_BY_STATUS.get(status, "unreachable" if status >= 500 else "other")
    seconds = float(retry_after) if retry_after and retry_after.isdecimal() else 0.0
    return StoreError(kind, f"{_WORDS[kind]} (HTTP {status}{', ' * bool(code)}{code})", min(seconds, 3600))


def of_library(error: Exception) -> StoreError:
    """The error of a client library, of whose words only a status, a code and known causes are kept."""
    text = str(error)
    if _IDENTITY.search(text):
        return StoreError("denied", "no credentials for it were found, or they are not accepted")
    found, code = _STATUS.search(text), _CODE.search(text)
    if found:
        return of_status(int(found[1] or found[2]), code[1] if code else "")
    name = type(error).__name__
    if isinstance(error, FileNotFoundError):
        return of_status(404, code[1] if code else "")
    if name == "PreconditionError":
        return of_status(412)
    if name == "PermissionDeniedError":
        return of_status(403, code[1] if code else "")
    if name == "UnauthenticatedError":
        return of_status(401, code[1] if code else "")
    lower = text.lower()
    for words, meaning in _TROUBLES:
        if words in lower:
            return StoreError("unreachable", meaning)
    return StoreError("other", f"its client failed ({name})")
