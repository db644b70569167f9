"""What the machine, or the container, lets this process use."""

import os
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
# Version 1 says so where there is no limit: the largest number of whole pages.
NO_MEMORY_LIMIT = 2**62

# Of each library what says how many threads it may take: its own word, then those that it also goes by.
_BLAS_VARIABLES = (
    ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"),
    ("MKL_NUM_THREADS", "OMP_NUM_THREADS"),
    ("BLIS_NUM_THREADS", "OMP_NUM_THREADS"),
    ("VECLIB_MAXIMUM_THREADS",),
)


@dataclass(frozen=True, slots=True)
class Memory:
    """In bytes. `used`: without what was read from files and is given back as soon as somebody needs the place."""

    limit: int
    used: int


def usable_cores(root: Path = ROOT) -> int:
    """Cores by affinity and by the tightest quota of the process's cgroups, whichever is less; at least 1.

    A quota is rounded down. One process more than there are whole cores would use the whole quota early in each period
    and then stand still until the next one, up to 0.1 s; the part of a core that is left over serves the threads.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [_quota(cgroup, version_1) for cgroup, version_1 in _cgroups("cpu", root)]
    return max(1, min([cores, *(int(quota) for quota in quotas if quota is not None)]))


def limited_memory(root: Path = ROOT) -> Memory | None:
    """Of the process's cgroup with the tightest limit; None where none has any."""
    found = [_memory(cgroup, version_1) for cgroup, version_1 in _cgroups("memory", root)]
    return min((memory for memory in found if memory is not None), key=lambda memory: memory.limit, default=None)


def oom_kills(root: Path = ROOT) -> int | None:
    """How many processes the kernel has killed for want of memory: of the process's cgroup, where it counts them, else
    of the machine. None where nobody tells."""
    files = [
        cgroup / ("memory.oom_control" if version_1 else "memory.events")
        for cgroup, version_1 in _cgroups("memory", root)
    ]
    for file in (*files, root / "proc/vmstat"):
        try:
            counts = dict(line.split() for line in file.read_text().splitlines())
            return int(counts["oom_kill"])
        except (OSError, ValueError, KeyError):
            continue
    return None


def keep_blas_on_its_thread(environ: MutableMapping[str, str] = os.environ) -> None:
    """NumPy's linear algebra on the thread that calls it, unless the operator says otherwise. To be called before
    NumPy is imported.

    A product of more than 10,000 numbers is spread over all cores, in every worker process: they wait for each other
    for ten times as long as the product takes.
    """
    for own, *others in _BLAS_VARIABLES:
        if not any(environ.get(name) for name in (own, *others)):
            environ[own] = "1"


def _cgroups(controller: str, root: Path) -> Iterator[tuple[Path, bool]]:
    """The process's cgroup and those around it, as far as they can be seen, and whether each is of version 1."""
    try:
        cgroups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return  # not Linux
    for line in cgroups:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        # A container may see its own cgroup as the mount itself, whatever the path says: the last of these.
        below = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(below), -1, -1):
            yield mount.joinpath(*below[:depth]), bool(controllers)


def _quota(cgroup: Path, version_1: bool) -> float | None:
    """In cores. None: there is none, or no such cgroup to be seen."""
    try:
        if version_1:
            quota = int((cgroup / "cpu.cfs_quota_us").read_text())  # -1: none
            period = int((cgroup / "cpu.cfs_period_us").read_text())
        else:
            quota, period = map(int, (cgroup / "cpu.max").read_text().split())  # the word max: none
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 and period > 0 else None


def _memory(cgroup: Path, version_1: bool) -> Memory | None:
    """None: there is no limit, or no such cgroup to be seen."""
    limit_file, used_file, given_back = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        if version_1
        else ("memory.max", "memory.current", "inactive_file")
    )
    try:
        limit = int((cgroup / limit_file).read_text())  # the word max: none
        if limit >= NO_MEMORY_LIMIT:
            return None
        used = int((cgroup / used_file).read_text())
        parts = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        return Memory(limit, max(0, used - int(parts[given_back])))
    except (OSError, ValueError, KeyError):
        return None
