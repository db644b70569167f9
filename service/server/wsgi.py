"""Requests as WSGI environments, and the responses of a WSGI app: how Flask's views are reached."""

import sys
from io import BytesIO
from typing import Any
from wsgiref.types import WSGIApplication

from service.http import WSGI_REQUEST, Request, Response, decoded_path


def run_wsgi(app: WSGIApplication, request: Request, address: tuple[str, int]) -> Response:
    """The app's whole response. Raises what the app raises."""
    started: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], _exc_info: Any = None) -> Any:
        started[:] = [status, headers]

    chunks = app(environ(request, address), start_response)
    try:
        body = b"".join(chunks)
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    status, headers = started
    content_type = "text/plain"
    others = []
    for name, value in headers:
        lower = name.lower()
        if lower == "content-type":
            content_type = value
        elif lower not in ("content-length", "connection", "date"):
            others.append((lower, value))
    return Response(int(status.split(" ", 1)[0]), body, content_type, tuple(others))


def environ(request: Request, address: tuple[str, int]) -> dict[str, Any]:
    query = request.target.partition(b"?")[2]
    values: dict[str, Any] = {
        # A HEAD gets the response of a GET; the connection leaves the body out.
        "REQUEST_METHOD": "GET" if request.method == "HEAD" else request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": decoded_path(request.target).decode("latin-1"),
        "QUERY_STRING": query.decode("latin-1"),
        "SERVER_NAME": address[0],
        "SERVER_PORT": str(address[1]),
        "SERVER_PROTOCOL": f"HTTP/{request.http_version}",
        "CONTENT_LENGTH": str(len(request.body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(request.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        WSGI_REQUEST: request,
    }
    for name, value in request.headers.items():
        # X_Y and X-Y would become one name; a proxy in front that strips the second would be got round by the first.
        if b"_" in name or name in (b"content-length", b"transfer-encoding"):
            continue
        key = name.decode("latin-1").upper().replace("-", "_")
        values[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value.decode("latin-1")
    return values
