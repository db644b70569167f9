"""Servers that speak the protocols of stores, and fail as told: S3, plain HTTPS, Hugging Face's API."""

import hashlib
import json
import re
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.integration.server import in_a_thread

BUCKET = "bucket"
DATE = "Thu, 01 Jan 2026 00:00:00 GMT"


@dataclass
class Store:
    """`objects`: by key. `fault`: called with the key, or "" for a listing; what it returns is done to the response.
    `requests`: their keys and headers."""

    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    fault: Callable[[str], "Fault | None"] = lambda _key: None
    requests: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)

    def upload(self, folder: Path, prefix: str) -> None:
        """The graph last, as nobody promises."""
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_file():
                self.objects[f"{prefix}/{path.relative_to(folder)}".lstrip("/")] = path.read_bytes()

    def delete(self, prefix: str) -> None:
        for key in [key for key in self.objects if key.startswith(prefix)]:
            del self.objects[key]


@dataclass(frozen=True)
class Fault:
    """`status`: the response's, in place of the content. `cut`: the connection ends after so many bytes. `pause`: for
    each piece of 64 KiB, in seconds."""

    status: int = 200
    retry_after: str = ""
    location: str = ""
    cut: int | None = None
    pause: float = 0.0


def etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:  # the library's name
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        if "list-type" in query:
            self._listing(query["prefix"][0] if "prefix" in query else "")
        elif path.startswith("/api/models/"):
            self._repository(path.split("/revision/")[1])
        elif "/resolve/" in path:
            self._object(path.partition("/resolve/")[2].partition("/")[2])
        else:
            self._object(path.removeprefix(f"/{BUCKET}").lstrip("/"))

    def _listing(self, prefix: str) -> None:
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>{escape(etag(content))}</ETag><Size>{len(content)}</Size></Contents>"
            for key, content in sorted(self.store.objects.items())
            if key.startswith(prefix)
        )
        self._send(
            "",
            f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>".encode(),
            self.store.fault(""),
        )

    def _repository(self, revision: str) -> None:
        siblings = [
            {"rfilename": key, "size": len(content), "blobId": etag(content), "lfs": _lfs(content)}
            for key, content in self.store.objects.items()
        ]
        self._send(
            "", json.dumps({"sha": f"commit-of-{revision}", "siblings": siblings}).encode(), self.store.fault("")
        )

    def _object(self, key: str) -> None:
        # It may change what is sent.
        fault = self.store.fault(key)
        content = self.store.objects.get(key)
        if content is None:
            self._send(key, b"<Error><Code>NoSuchKey</Code></Error>", fault or Fault(404))
        elif self.headers.get("If-Match", etag(content)) != etag(content):
            self._send(key, b"<Error><Code>PreconditionFailed</Code></Error>", fault or Fault(412))
        else:
            self._send(key, content, fault)

    def _send(self, key: str, content: bytes, fault: Fault | None) -> None:
        self.store.requests.append((key, dict(self.headers)))
        fault = fault or Fault()
        if fault.status != 200:
            content = b"<Error><Code>SomeCode</Code></Error>"
        whole = content
        ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if fault.status == 200 else None
        if ranged:
            first, last = int(ranged[1]), int(ranged[2] or len(content) - 1)
            content = content[first : last + 1]
        self.send_response(206 if ranged else fault.status)
        if ranged:
            self.send_header("Content-Range", f"bytes {first}-{first + len(content) - 1}/{len(whole)}")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", etag(whole))
        self.send_header("Last-Modified", DATE)
        for name, text in (("Retry-After", fault.retry_after), ("Location", fault.location)):
            if text:
                self.send_header(name, text)
        self.end_headers()
        content = content[: fault.cut]
        for start in range(0, len(content), 65536):
            time.sleep(fault.pause)
            self.wfile.write(content[start : start + 65536])
        self.close_connection = fault.cut is not None


def _lfs(content: bytes) -> dict[str, str]:
    return {"sha256": hashlib.sha256(content).hexdigest()}


@contextmanager
def serving(store: Store, certificate: Path | None = None) -> Iterator[Store]:
    """`certificate`: with its key; then by TLS."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"store": store}))
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    store.url = f"http{'s' * (certificate is not None)}://localhost:{server.server_port}"
    with in_a_thread(server):
        yield store


def make_certificate(folder: Path) -> Path:
    """For localhost, with its key in the same file; signed by itself."""
    path = folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]  # noqa: RUF005
        + ["-addext", "subjectAltName=DNS:localhost", "-keyout", path, "-out", folder / "public.pem"],
        check=True,
        capture_output=True,
    )
    path.write_bytes(path.read_bytes() + (folder / "public.pem").read_bytes())
    return path
