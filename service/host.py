"""What the machine, or the container, lets this process use."""

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def usable_cores(root: Path = ROOT) -> int:
    """Cores by affinity and by the tightest quota of the process's cgroups, whichever is less; at least 1.

    A quota is rounded down. One process more than there are whole cores would use the whole quota early in each period
    and then stand still until the next one, up to 0.1 s; the part of a core that is left over serves the threads.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *map(int, _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """In cores: of the process's cgroup and of those around it, of version 1 and 2, as far as they can be seen."""
    try:
        cgroups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return  # not Linux
    for line in cgroups:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        # A container may see its own cgroup as the mount itself, whatever the path says: the last of these.
        below = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(below), -1, -1):
            quota = _quota(mount.joinpath(*below[:depth]), version_1=bool(controllers))
            if quota is not None:
                yield quota


def _quota(cgroup: Path, version_1: bool) -> float | None:
    """None: there is none, or no such cgroup to be seen."""
    try:
        if version_1:
            quota = int((cgroup / "cpu.cfs_quota_us").read_text())  # -1: none
            period = int((cgroup / "cpu.cfs_period_us").read_text())
        else:
            quota, period = map(int, (cgroup / "cpu.max").read_text().split())  # the word max: none
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 and period > 0 else None
