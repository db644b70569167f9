"""What clients do beside sending good predictions: each kind in turn, with the status that it comes to."""

import gzip
import http.client
import itertools
import json
import shutil
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.bodies import Body
from benchmarks.reload import versions

PATIENCE_SECONDS = 30
CLOTHING, REGRESSION = "/v1/models/clothing", "/v1/models/regression"
JSON = {"Content-Type": "application/json"}
LINE = "next-line"  # what divides a form's parts


class OddRequests:
    """`models`: the folder that the service serves, of which versions of the regression come and go; `png`, `tensor`:
    a picture as it is, and as a v2 binary request."""

    def __init__(self, port: int, models: Path, png: Body, tensor: Body) -> None:
        self._port = port
        self._models = models
        self._png = png
        self._tensor = tensor
        self._newest = itertools.count(2)

    def send(self, seconds: float) -> int:
        """How many were sent, one after the other, each kind once and again until the time is over. Raises RuntimeError
        where one does not come to what it should."""
        ends = time.monotonic() + seconds
        version = self._publish()
        sent = self._answered() + self._left()
        while time.monotonic() < ends:
            sent += self._answered() + self._left()
        self._expect(200, "GET", f"{REGRESSION}/versions/{version}")
        shutil.rmtree(self._models / "regression" / str(version))
        return sent

    def _answered(self) -> int:
        png, small = self._png.content, b'{"instances": [1.0]}'
        picture = dict(self._png.headers)
        part = b'--%s\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n\r\n%s\r\n'
        form = b"".join(part % (LINE.encode(), png) for _ in range(3)) + f"--{LINE}--\r\n".encode()
        requests: list[tuple[int, str, str, bytes, Mapping[str, str]]] = [
            (200, "POST", f"{CLOTHING}:classify", png, picture),
            (200, "POST", f"{CLOTHING}:predict", form, {"Content-Type": f"multipart/form-data; boundary={LINE}"}),
            (200, "POST", "/v2/models/clothing/infer", self._tensor.content, self._tensor.headers),
            (200, "POST", f"{REGRESSION}:predict", gzip.compress(small), {**JSON, "Content-Encoding": "gzip"}),
            *((200, "GET", path, b"", {}) for path in (CLOTHING, f"{CLOTHING}/metadata", "/v1/models", "/v2", "/")),
            *((200, "GET", path, b"", {}) for path in ("/metrics", "/v2/health/live", "/v2/models/clothing/stats")),
            (400, "POST", f"{REGRESSION}:predict", b'{"instances": [1.0', JSON),
            (400, "POST", f"{REGRESSION}:predict", b'{"instances": ["one"]}', JSON),
            (400, "POST", f"{CLOTHING}:predict", png[: len(png) // 2], picture),
            (400, "POST", f"{CLOTHING}:predict", small, JSON),
            (404, "POST", "/v1/models/nobody:predict", small, JSON),
            (404, "GET", "/nowhere", b"", {}),
            (415, "POST", f"{REGRESSION}:predict", small, {**JSON, "Content-Encoding": "compress"}),
        ]
        for status, method, path, body, headers in requests:
            self._expect(status, method, path, body, headers)
        return len(requests)

    def _expect(
        self, status: int, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status != status:
            raise RuntimeError(f"{method} {path}: {answer.status} instead of {status}: {content[:200]!r}")

    def _left(self) -> int:
        """Who does not wait for an answer, or sends what is none of HTTP."""
        body = json.dumps({"instances": [1.0] * 1000}).encode()
        head = f"POST {REGRESSION}:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        whole, no_http = head + body, b"\x16\x03\x01 is not HTTP\r\n\r\n"
        endings = (head[:20], head, whole[:-100], whole, 3 * whole, no_http)
        for sent in endings:
            for is_reset in (False, True):
                with socket.create_connection(("127.0.0.1", self._port), PATIENCE_SECONDS) as connection:
                    connection.sendall(sent)
                    if is_reset:
                        # With nothing to linger for, closing resets the connection.
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return 2 * len(endings)

    def _publish(self) -> int:
        """The next version of the regression, once it answers."""
        version = next(self._newest)
        beside = self._models / "regression" / ".made"
        versions.make(version, beside)
        beside.rename(self._models / "regression" / str(version))
        path = f"{REGRESSION}/versions/{version}:predict"
        ended = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self._expect(200, "POST", path, b'{"instances": [1.0]}', JSON)
            except RuntimeError:
                if time.monotonic() > ended:
                    raise
                time.sleep(0.1)
            else:
                return version
