"""What a request costs by each protocol and transport: the same picture, the same model, one worker. Four minutes.

h2load (Debian: nghttp2-client) makes the load, for HTTP/1.1 too: what a request costs depends on how many come at once,
and that on who sends them. Of gRPC a connection has up to eight calls at a time.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import report
from benchmarks.bodies import body
from benchmarks.process import Body, Running, cores, pinned_to, serving
from benchmarks.report import number
from benchmarks.servers import fitting_room

ROUNDS = 3
SECONDS = 3
PICTURES = (1, 32)
CONNECTIONS = (1, 8, 32)
MAX_STREAMS = 8
PREDICT = "/v1/models/clothing:predict"
INFER = "/v2/models/clothing/infer"
PROTOCOLS = {
    "v1 JSON": (PREDICT, "v1_json"),
    "v2 JSON": (INFER, "v2_json"),
    "v2 binary": (INFER, "v2_binary"),
    "gRPC v1": ("/tensorflow.serving.PredictionService/Predict", "grpc_v1"),
    "gRPC v2": ("/inference.GRPCInferenceService/ModelInfer", "grpc_v2"),
}
# By pictures and connections: a protocol, what it is compared with, and how much more it may cost.
TARGETS = [
    *((1, connections, "gRPC v1", "v1 JSON", 1.0 if connections > 1 else 1.1) for connections in CONNECTIONS),
    *((1, connections, "gRPC v2", "v2 binary", 1.05) for connections in CONNECTIONS),
]


def main() -> None:
    options = report.parser("benchmarks.protocols", __doc__).parse_args()
    if shutil.which("h2load") is None:
        raise SystemExit("h2load is needed to make the load; on Debian and Ubuntu: apt-get install nghttp2-client")
    server_core, load_core = cores()
    server = fitting_room.SERVERS["fitting_room"]
    found: dict[str, dict[str, list[float]]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="protocols-") as folder,
        serving(server, PREDICT, body("v1_json"), (server_core,), Path(folder)) as running,
    ):
        before = running.pss_bytes()
        _drive(running, "gRPC v1", 1, 1, 1, load_core)
        grown = running.pss_bytes() - before
        for _ in range(ROUNDS):
            for pictures in PICTURES:
                for connections in CONNECTIONS:
                    row = found.setdefault(f"{pictures}/{connections}", {})
                    for name in PROTOCOLS:
                        row.setdefault(name, []).append(
                            _drive(running, name, pictures, connections, SECONDS, load_core)
                        )
    rows = {key: {name: median(values) for name, values in row.items()} for key, row in found.items()}
    report.finish("protocols", {"cpu_us": rows, "grown_mb": grown / 1e6}, write=not options.dry_run)


def _drive(running: Running, name: str, pictures: int, connections: int, seconds: int, core: int) -> float:
    """CPU time of a request in microseconds. Raises RuntimeError if a single one fails."""
    path, encoding = PROTOCOLS[name]
    sent: Body = body(encoding, pictures)
    streams = MAX_STREAMS if encoding.startswith("grpc") and connections > MAX_STREAMS else 1
    how = [] if encoding.startswith("grpc") else ["--h1"]
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(sent.content)
        headers = [f"-H{name}: {value}" for name, value in sent.headers.items()]
        clients = [f"-c{connections // streams}", f"-m{streams}", "-t1", f"-D{seconds}"]
        command = ["h2load", *how, *clients, "-d", file.name, *headers, f"http://127.0.0.1:{running.port}{path}"]
        answered, cpu = _answered(running), running.cpu_seconds()
        with pinned_to(core):
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
        cpu = running.cpu_seconds() - cpu
    counts = re.search(r"requests: .* (\d+) succeeded, (\d+) failed", done.stdout)
    # Of HTTP; a call that fails has that status as well, so the service's own count is read, too.
    if counts is None or int(counts[2]) or not 0 < int(counts[1]) <= _answered(running) - answered:
        raise RuntimeError(f"{path}: requests failed:\n{done.stdout}{done.stderr}")
    return cpu / int(counts[1]) * 1e6


def _answered(running: Running) -> int:
    """Requests that were answered without an error."""
    _, page = running.request("GET", "/metrics")
    lines = re.findall(rb'^serving_requests_total\{[^}]*status="200"[^}]*\} (\S+)$', page, re.MULTILINE)
    return int(sum(map(float, lines)))


def section(found: Mapping[str, Any]) -> list[str]:
    rows = found["cpu_us"]
    return [
        report.table(
            ["pictures", "connections", *(f"{name}, µs" for name in PROTOCOLS)],
            [[*key.split("/"), *(number(row[name]) for name in PROTOCOLS)] for key, row in rows.items()],
            left=0,
        ),
        f"The first client of gRPC adds {found['grown_mb']:.2g} MB to the worker.",
        report.targets(
            report.target(
                f"{name} ÷ {other}, pictures: {pictures}, connections: {connections}",
                rows[f"{pictures}/{connections}"][name] / rows[f"{pictures}/{connections}"][other],
                limit,
            )
            for pictures, connections, name, other, limit in TARGETS
        ),
    ]


if __name__ == "__main__":
    main()
