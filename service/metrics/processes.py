"""What the worker processes take of the machine, as Linux's /proc tells (proc_pid_stat(5))."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")

# Fields of /proc/PID/stat, counted from the one behind the name: that may hold blanks and brackets.
_STATE = 0
_OWN_TICKS = slice(11, 13)
_ENDED_CHILDRENS_TICKS = slice(13, 15)
_ALL_TICKS = slice(11, 15)
_START_TICKS = 19
_RESIDENT_PAGES = 21


@dataclass(frozen=True, slots=True)
class Usage:
    """Of all processes together. `last_start`: when the youngest was started, in seconds since 1970."""

    cpu_seconds: float
    resident_bytes: float
    open_files: float
    last_start: float


def usage(living: Sequence[int], parent: int | None) -> Usage | None:
    """`parent` started them all; None where it had other children, too. None where there is no /proc to ask."""
    stats = {pid: fields for pid in living if (fields := _stat(pid))}
    if not stats:
        return None
    ticks_per_second = os.sysconf("SC_CLK_TCK")
    return Usage(
        cpu_seconds=_cpu_ticks(living, parent) / ticks_per_second,
        resident_bytes=sum(int(fields[_RESIDENT_PAGES]) for fields in stats.values()) * os.sysconf("SC_PAGE_SIZE"),
        open_files=sum(map(_open_files, stats)),
        last_start=max(int(fields[_START_TICKS]) for fields in stats.values()) / ticks_per_second + _boot_time(),
    )


def _cpu_ticks(pids: Sequence[int], parent: int | None) -> int:
    """Of these processes, and of those that the parent has seen end: so it never falls."""
    while True:
        of_ended = _ticks(parent, _ENDED_CHILDRENS_TICKS) if parent else 0
        total = of_ended + sum(_ticks(pid, _ALL_TICKS) for pid in pids)
        # If one ends meanwhile, it is counted twice or not at all.
        if not parent or _ticks(parent, _ENDED_CHILDRENS_TICKS) == of_ended:
            return total


def _ticks(pid: int, which: slice) -> int:
    return sum(map(int, _stat(pid)[which]))


def _stat(pid: int) -> list[str]:
    """Empty for a process that is not there any more."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _open_files(pid: int) -> int:
    try:
        return sum(1 for _ in (PROC / str(pid) / "fd").iterdir())
    except OSError:
        return 0


def _boot_time() -> float:
    for line in (PROC / "stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0
