"""Full load for long: does anything grow? Code 1 where memory, file descriptors or threads did."""

import gzip
import itertools
import json
import shutil
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import report
from benchmarks.bodies import JSON, ROW, body
from benchmarks.load import drive
from benchmarks.process import START_SECONDS, Running, cores, pinned_to, serving
from benchmarks.servers import fitting_room

# From so many minutes on, the result is written into the docs.
WHOLE_MINUTES = 10
MIN_MINUTES = 2
# What half a minute sends at full load: encoding, pictures, connections, seconds. Every way that a prediction can take;
# more connections than threads, so that all threads begin in the first half minute.
MIX = (("json", 1, 16, 16), ("png", 1, 16, 2), ("jpeg", 1, 64, 4), ("json", 240, 16, 4))
ODD_SECONDS = 4
# Until then caches and arenas fill: what grows later grows for ever.
SETTLED_SLICES = 2
MAX_GROWTH = 1.05
SETTLE_SECONDS = 1
CLOTHING, REGRESSION = "/v1/models/clothing", "/v1/models/regression"
BOUNDARY = "next-line"
FIGURES = {
    "cpu_us": "CPU µs a request of one picture",
    "p99_ms": "p99 ms",
    "pss_mb": "PSS MB",
    "fds": "file descriptors",
    "threads": "threads",
}


@dataclass(frozen=True)
class Slice:
    """Half a minute; `cpu_us` and `p99_ms` of requests with one picture as JSON."""

    requests: int
    cpu_us: float
    p99_ms: float
    pss_mb: float
    fds: int
    threads: int


def main() -> None:
    parser = report.parser("benchmarks.soak", __doc__)
    parser.add_argument("--minutes", type=int, default=WHOLE_MINUTES, help="how long (default: %(default)s)")
    options = parser.parse_args()
    minutes = max(MIN_MINUTES, options.minutes)
    server, (core, load_core) = fitting_room.SERVERS["fitting_room"], cores()
    slices = []
    with tempfile.TemporaryDirectory(prefix="soak-") as name, pinned_to(load_core):
        folder = Path(name)
        with serving(server, fitting_room.CLOTHING, body("v1_json"), (core,), folder) as running:
            odd = OddRequests(running, folder / "small_models" / "regression")
            for index in range(2 * minutes):
                slices.append(_slice(running, odd, load_core))
                print(f"{(index + 1) / 2:4.1f} min  {slices[-1]}", flush=True)
    is_whole = minutes >= WHOLE_MINUTES and not options.dry_run
    sys.exit(not report.finish("soak", _summary(slices), write=is_whole, wrk=True))


def _slice(running: Running, odd: "OddRequests", load_core: int) -> Slice:
    loads = [
        drive(running, route.path, body(route.encoding, pictures), connections, seconds, load_core)
        for sends, pictures, connections, seconds in MIX
        for route in [fitting_room.ROUTES[sends]]
    ]
    sent = odd.send(ODD_SECONDS)
    # The load's connections are still being closed.
    time.sleep(SETTLE_SECONDS)
    return Slice(
        requests=sum(load.requests for load in loads) + sent,
        cpu_us=loads[0].cpu_us,
        p99_ms=loads[0].p99_ms,
        pss_mb=running.pss_bytes() / 2**20,
        fds=sum(process.num_fds() for process in running.tree()),
        threads=sum(process.num_threads() for process in running.tree()),
    )


class OddRequests:
    """What clients do beside sending good predictions: each kind in turn, with the status that it should come to.

    `regression`: the folder of the model whose versions come and go.
    """

    def __init__(self, running: Running, regression: Path) -> None:
        self._running, self._regression = running, regression
        self._numbers = itertools.count(2)

    def send(self, seconds: float) -> int:
        """Each kind once, and again until the time is over. Returns how many were sent."""
        ends = time.monotonic() + seconds
        version = self._publish()
        sent = self._answered() + self._abandoned()
        while time.monotonic() < ends:
            sent += self._answered() + self._abandoned()
        self._expect(200, "GET", f"{REGRESSION}/versions/{version}")
        shutil.rmtree(self._regression / str(version))
        return sent

    def _answered(self) -> int:
        png, tensor, row = body("png"), body("v2_binary"), ROW.content
        part = b'--%s\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n\r\n%s\r\n'
        form = b"".join(part % (BOUNDARY.encode(), png.content) for _ in range(3)) + f"--{BOUNDARY}--\r\n".encode()
        pages = (CLOTHING, f"{CLOTHING}/metadata", "/v1/models", "/v2", "/", "/metrics", "/v2/health/live")
        requests: list[tuple[int, str, str, bytes, Mapping[str, str]]] = [
            (200, "POST", f"{CLOTHING}:classify", png.content, png.headers),
            (200, "POST", f"{CLOTHING}:predict", form, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}),
            (200, "POST", "/v2/models/clothing/infer", tensor.content, tensor.headers),
            (200, "POST", f"{REGRESSION}:predict", gzip.compress(row), {**JSON, "Content-Encoding": "gzip"}),
            *((200, "GET", path, b"", {}) for path in (*pages, "/v2/models/clothing/stats")),
            (400, "POST", f"{REGRESSION}:predict", b'{"instances": [1.0', JSON),
            (400, "POST", f"{REGRESSION}:predict", b'{"instances": ["one"]}', JSON),
            (400, "POST", f"{CLOTHING}:predict", png.content[: len(png.content) // 2], png.headers),
            (400, "POST", f"{CLOTHING}:predict", row, JSON),
            (404, "POST", "/v1/models/nobody:predict", row, JSON),
            (404, "GET", "/nowhere", b"", {}),
            (415, "POST", f"{REGRESSION}:predict", row, {**JSON, "Content-Encoding": "compress"}),
        ]
        for request in requests:
            self._expect(*request)
        return len(requests)

    def _expect(
        self, expected: int, method: str, path: str, content: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        status, received = self._running.request(method, path, content, headers)
        if status != expected:
            raise RuntimeError(f"{method} {path}: {status} instead of {expected}: {received[:200]!r}")

    def _abandoned(self) -> int:
        """Clients that leave before the response, and what is not HTTP."""
        content = json.dumps({"instances": [1.0] * 1000}).encode()
        head = f"POST {REGRESSION}:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        whole, no_http = head + content, b"\x16\x03\x01 is not HTTP\r\n\r\n"
        endings = (head[:20], head, whole[:-100], whole, 3 * whole, no_http)
        for sent, is_reset in itertools.product(endings, (False, True)):
            with socket.create_connection(("127.0.0.1", self._running.port), START_SECONDS) as connection:
                connection.sendall(sent)
                if is_reset:
                    # With nothing to linger for, closing resets the connection.
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return 2 * len(endings)

    def _publish(self) -> int:
        """The next version of the regression, once it predicts."""
        version, draft = next(self._numbers), self._regression / ".draft"
        shutil.copytree(self._regression / "1", draft)
        draft.rename(self._regression / str(version))
        ends = time.monotonic() + START_SECONDS
        while self._running.post(f"{REGRESSION}/versions/{version}:predict", ROW) != 200:
            if time.monotonic() > ends:
                raise RuntimeError(f"version {version} of the regression does not predict after {START_SECONDS} s")
            time.sleep(0.1)
        return version


def _summary(slices: list[Slice]) -> dict[str, Any]:
    """Of each figure: after the first minute, medians of the halves of the rest, and at the end.

    Memory grew where the halves' medians did, for single readings differ by what lies freed at the moment; the others
    where the maxima did, for some begin only when two requests come at once.
    """
    settled = slices[SETTLED_SLICES:]
    first, second = settled[: len(settled) // 2], settled[len(settled) // 2 :]

    def medians(name: str) -> list[float]:
        return [median(getattr(one, name) for one in part) for part in (first[:1], first, second, second[-1:])]

    figures = {name: medians(name) for name in FIGURES}
    _, before, after, _ = figures["pss_mb"]
    fds, threads = (
        [max(getattr(one, name) for one in part) for part in (first, second)] for name in ("fds", "threads")
    )
    grown = {
        "memory": after > before * MAX_GROWTH,
        "file descriptors": fds[1] > fds[0],
        "threads": threads[1] > threads[0],
    }
    return {
        "minutes": len(slices) // 2,
        "requests": sum(one.requests for one in slices),
        "grown": [what for what, has_grown in grown.items() if has_grown],
        "figures": figures,
    }


def section(found: Mapping[str, Any]) -> list[str]:
    return [
        f"{found['minutes']} minutes, {found['requests']:,} requests, each with the status it should have. "
        + (f"Grown: {', '.join(found['grown'])} {report.MISSED}." if found["grown"] else "Nothing grew."),
        report.table(
            ["", "after the first minute", "median, first half of the rest", "median, second half", "at the end"],
            [[title, *map(report.number, found["figures"][name])] for name, title in FIGURES.items()],
        ),
    ]


if __name__ == "__main__":
    main()
