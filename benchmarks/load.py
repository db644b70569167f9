"""The load: wrk, with a body, for a bounded time."""

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

# Its last lines are parsed below; a status other than 200 would make every other figure worthless.
SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
function done(summary, latency, requests)
  io.write(string.format("requests=%d seconds=%.6f p50=%.1f p99=%.1f failed=%d\\n", summary.requests,
    summary.duration / 1e6, latency:percentile(50), latency:percentile(99), summary.errors.status
    + summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """Latencies in microseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float


def find_wrk() -> str:
    wrk = shutil.which("wrk")
    if wrk is None:
        raise SystemExit("wrk is needed to make the load: apt-get install wrk")
    return wrk


def drive(url: str, body: bytes, connections: int, seconds: int) -> Load:
    """Raises RuntimeError if a single request fails."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "body").write_bytes(body)
        script = Path(folder) / "post.lua"
        script.write_text(SCRIPT.replace("{body}", f"{folder}/body"))
        command = [find_wrk(), "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    figures = {name: float(value) for name, value in re.findall(r"(\w+)=([\d.]+)", output.splitlines()[-1])}
    if figures.pop("failed"):
        raise RuntimeError(f"requests failed at {url}:\n{output}")
    return Load(int(figures["requests"]), figures["seconds"], figures["p50"], figures["p99"])
