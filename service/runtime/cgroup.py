"""CPU and memory limits of the process: the machine's, and its container's."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
# cgroup version 1 writes a number of this size if there is no limit.
NO_MEMORY_LIMIT = 2**62


@dataclass(frozen=True, slots=True)
class Memory:
    """In bytes. `used` leaves out cached files, which the kernel drops when memory runs short."""

    limit: int
    used: int


def usable_cores(root: Path = ROOT) -> int:
    """Cores that the process may use: the least of its affinity and its cgroups' quotas, at least 1.

    A quota is rounded down. With more processes than whole cores, the quota would be used up early in each period, and
    all would stand still until the next one, for up to 0.1 s. The rest of a core serves the threads.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [_quota(cgroup, version_1) for cgroup, version_1 in _cgroups("cpu", root)]
    return max(1, min([cores, *(int(quota) for quota in quotas if quota is not None)]))


def limited_memory(root: Path = ROOT) -> Memory | None:
    """Memory of the process's cgroup with the tightest limit; None without a limit."""
    found = [_memory(cgroup, version_1) for cgroup, version_1 in _cgroups("memory", root)]
    return min((memory for memory in found if memory is not None), key=lambda memory: memory.limit, default=None)


def oom_kills(root: Path = ROOT) -> int | None:
    """How many processes the kernel has killed for lack of memory: by the process's cgroup if it counts them, else by
    the machine. None if unknown."""
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


def _cgroups(controller: str, root: Path) -> Iterator[tuple[Path, bool]]:
    """The process's cgroup and those around it, as far as they are visible, and whether each is of version 1."""
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
    """In cores. None without a quota, or if the cgroup is not visible."""
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
    """None without a limit, or if the cgroup is not visible."""
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
