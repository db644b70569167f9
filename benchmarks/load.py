"""Full load: wrk sends one body over kept-alive connections, and the server's CPU time is read before and after."""

import re
import resource
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.process import Body, Running, pinned_to

# The last line that it prints is read below; a status other than 200 would make every other figure worthless.
SCRIPT = """
wrk.method = "POST"
{headers}
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
    """`cpu_seconds`: the server's; `wrk_seconds`: the CPU time of the load itself."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_seconds: float
    wrk_seconds: float = 0.0

    @property
    def cpu_us(self) -> float:
        """Of a request."""
        return self.cpu_seconds / self.requests * 1e6


def find_wrk() -> str:
    wrk = shutil.which("wrk")
    if wrk is None:
        raise SystemExit("wrk is needed to make the load; on Debian and Ubuntu: apt-get install wrk")
    return wrk


def drive(running: Running, path: str, body: Body, connections: int, seconds: int, *cpus: int) -> Load:
    """`cpus`: wrk's. Raises RuntimeError if a single request fails."""
    url = f"http://127.0.0.1:{running.port}{path}"
    with tempfile.TemporaryDirectory() as folder:
        content, script = Path(folder, "body"), Path(folder, "post.lua")
        content.write_bytes(body.content)
        headers = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in body.headers.items())
        script.write_text(SCRIPT.replace("{headers}", headers).replace("{body}", str(content)))
        # Slow servers need the time: the tutorial's sixteenth connection waits a second and more.
        command = [find_wrk(), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout=15s", "-s", str(script), url]
        cpu, wrk = running.cpu_seconds(), _children_seconds()
        with pinned_to(*cpus):
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
        cpu, wrk = running.cpu_seconds() - cpu, _children_seconds() - wrk
    if done.returncode:
        raise RuntimeError(f"wrk left with {done.returncode}: {done.stderr.strip()}")
    return parse(done.stdout, url, cpu, wrk)


def parse(output: str, source: str, cpu_seconds: float = 0.0, wrk_seconds: float = 0.0) -> Load:
    """The figures in the last line that wrk's script, or a server in process, printed."""
    lines = output.strip().splitlines()
    figures = {name: float(value) for name, value in re.findall(r"(\w+)=([\d.]+)", lines[-1] if lines else "")}
    if "failed" not in figures:
        raise RuntimeError(f"{source}: no figures in what was printed:\n{output}")
    if failed := figures["failed"]:
        raise RuntimeError(f"{source}: {failed:.0f} requests of {figures['requests']:.0f} failed")
    if not figures["requests"]:
        raise RuntimeError(f"{source}: not one response in {figures['seconds']:.1f} s")
    return Load(
        requests=int(figures["requests"]),
        seconds=figures["seconds"],
        p50_ms=figures["p50"] / 1e3,
        p99_ms=figures["p99"] / 1e3,
        cpu_seconds=figures.get("cpu", cpu_seconds),
        wrk_seconds=wrk_seconds,
    )


def _children_seconds() -> float:
    """Of children that have ended; the server runs on, so a difference is what wrk took."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
