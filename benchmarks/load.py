"""The load: wrk, with a body, for a bounded time, on a core that is named."""

import re
import resource
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bodies import Body
from benchmarks.processes import held_to

# Its last line is parsed below; a status other than 200 would make every other figure worthless.
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
    """Latencies in microseconds; `cpu_seconds` are the load tool's own."""

    requests: int
    seconds: float
    p50: float
    p99: float
    cpu_seconds: float


def find_wrk() -> str:
    wrk = shutil.which("wrk")
    if wrk is None:
        raise SystemExit("wrk is needed to make the load; on Debian and Ubuntu: apt-get install wrk")
    return wrk


def drive(url: str, body: Body, connections: int, seconds: int, cpus: set[int]) -> Load:
    """Raises RuntimeError if a single request fails."""
    with tempfile.TemporaryDirectory() as folder:
        content = Path(folder) / "body"
        content.write_bytes(body.content)
        headers = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in body.headers.items())
        script = Path(folder) / "post.lua"
        script.write_text(SCRIPT.replace("{headers}", headers).replace("{body}", str(content)))
        # Slow servers need the time: the tutorial's sixteenth connection waits a second and more.
        command = [find_wrk(), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout=15s", "-s", str(script), url]
        before = _children_cpu()
        with held_to(cpus):
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
        used = _children_cpu() - before
    if done.returncode:
        raise RuntimeError(f"wrk left with {done.returncode}: {done.stderr.strip()}")
    return parse(done.stdout, url, used)


def parse(output: str, url: str, cpu_seconds: float) -> Load:
    """The figures in the last line that wrk's script, or a loop in process, printed."""
    lines = output.strip().splitlines()
    figures = {name: float(value) for name, value in re.findall(r"(\w+)=([\d.]+)", lines[-1] if lines else "")}
    if "failed" not in figures:
        raise RuntimeError(f"{url}: no figures in what was printed:\n{output}")
    if failed := figures["failed"]:
        raise RuntimeError(f"{url}: {failed:.0f} requests of {figures['requests']:.0f} failed")
    if not figures["requests"]:
        raise RuntimeError(f"{url}: not one request was answered in {figures['seconds']:.1f} s")
    return Load(
        requests=int(figures["requests"]),
        seconds=figures["seconds"],
        p50=figures["p50"],
        p99=figures["p99"],
        cpu_seconds=figures.get("cpu", cpu_seconds),
    )


def _children_cpu() -> float:
    """Of children that have ended; servers run on meanwhile, so a difference is what the load tool took."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
