"""The machine that figures come from, and the two cores of it that a run is held to."""

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks.load import find_wrk


def cores() -> tuple[int, int]:
    """For the server and for the load; two, whatever else the machine has, so that figures stay comparable."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise SystemExit("two cores are needed: one for the server, one for the load")
    return usable[0], usable[1]


def provenance(*, with_wrk: bool = False) -> dict[str, str]:
    """`machine` and `made`, the day, of figures that are made now. `with_wrk`: where it made the load."""
    described = _hardware()
    if with_wrk:
        # wrk prints its version with its help, and leaves with 1.
        wrk = subprocess.run([find_wrk(), "--version"], capture_output=True, text=True, timeout=10).stdout.split()[1]
        described = f"{described}, wrk {wrk}"
    return {"machine": described, "made": f"{datetime.now(UTC):%Y-%m-%d}"}


def _hardware() -> str:
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    processor = model[1] if model else platform.machine()
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{processor}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}"
    )
