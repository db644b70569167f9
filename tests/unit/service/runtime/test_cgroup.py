import os
from collections.abc import Callable
from pathlib import Path

import pytest

from service.runtime.cgroup import Memory, limited_memory, oom_kills, usable_cores

Files = dict[str, str]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file system of a machine with eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return tmp_path


def write(root: Path, cgroups: str, files: Files) -> None:
    """`cgroups`: those that the process belongs to."""
    for path, text in {"proc/self/cgroup": cgroups, **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"{text}\n")


def quota(text: str, cgroup: str = ".") -> Files:
    return {f"sys/fs/cgroup/{cgroup}/cpu.max": text}


def quota_1(text: str, cgroup: str = ".") -> Files:
    """By version 1."""
    limit, _, period = text.partition(" ")
    folder = f"sys/fs/cgroup/cpu/{cgroup}"
    return {f"{folder}/cpu.cfs_quota_us": limit, f"{folder}/cpu.cfs_period_us": period}


@pytest.mark.parametrize(("cgroups", "of"), [("0::/", quota), ("9:name=systemd:/\n4:cpu,cpuacct:/\n0::/", quota_1)])
@pytest.mark.parametrize(
    ("text", "cores"),
    [
        *[("max 100000", 8), ("-1 100000", 8), ("1600000 100000", 8), ("nonsense", 8), ("100000 0", 8)],
        *[("400000 100000", 4), ("100000 50000", 2), ("150000 100000", 1), ("50000 100000", 1)],
    ],
)
def test_quota_limits_the_cores(root: Path, cgroups: str, of: Callable[[str], Files], text: str, cores: int) -> None:
    write(root, cgroups, of(text))
    assert usable_cores(root) == cores


SMALL = quota_1("100000 100000", "docker/other") | quota_1("100000 100000", "small")


@pytest.mark.parametrize(
    ("cgroups", "files", "cores"),
    [
        # Outside of its namespace.
        ("0::/../elsewhere", quota("200000 100000") | quota("100000 100000", "../elsewhere"), 2),
        # Docker without a cgroup namespace: the path is the machine's, the mount shows the container's part alone.
        ("1:cpu:/docker/bbc7a2ac4200", quota_1("200000 100000"), 2),
        ("2:cpuset:/small\n1:cpu:/docker/ours\n0::/small", SMALL | quota_1("500000 100000", "docker/ours"), 5),
    ],
)
def test_other_cgroups_do_not_count(root: Path, cgroups: str, files: Files, cores: int) -> None:
    write(root, cgroups, files)
    assert usable_cores(root) == cores


@pytest.mark.parametrize("tightest", [".", "system.slice", "system.slice/ours.service"])
def test_tightest_quota_counts(root: Path, tightest: str) -> None:
    for cgroup in (".", "system.slice", "system.slice/ours.service"):
        files = quota("300000 100000" if cgroup == tightest else "600000 100000", cgroup)
        write(root, "0::/system.slice/ours.service", files)
    assert usable_cores(root) == 3


def test_affinity_decides_without_a_cgroup(root: Path) -> None:
    assert usable_cores(root) == 8


@pytest.mark.parametrize(("counted", "cores"), [(6, 6), (None, 1)])
def test_cores_of_the_machine_count_without_affinity(
    root: Path, monkeypatch: pytest.MonkeyPatch, counted: int | None, cores: int
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: counted)
    assert usable_cores(root) == cores


def memory(limit: str, used: int = 0, from_files: int = 0, cgroup: str = ".") -> Files:
    stat = f"anon 100\nactive_file 20\ninactive_file {from_files}"
    files = {"max": limit, "current": str(used), "stat": stat}
    return {f"sys/fs/cgroup/{cgroup}/memory.{name}": text for name, text in files.items()}


def memory_1(limit: str) -> Files:
    files = {"limit_in_bytes": limit, "usage_in_bytes": "700", "stat": "inactive_file 1\ntotal_inactive_file 200"}
    return {f"sys/fs/cgroup/memory/memory.{name}": text for name, text in files.items()}


@pytest.mark.parametrize(
    ("cgroups", "files", "expected"),
    [
        ("0::/", {}, None),
        ("0::/", memory("max"), None),
        ("0::/", memory("nonsense"), None),
        ("0::/", memory("1000", used=700, from_files=200), Memory(limit=1000, used=500)),
        ("0::/pod", memory("1000", used=900) | memory("500", used=100, cgroup="pod"), Memory(limit=500, used=100)),
        ("5:memory:/", memory_1("1000"), Memory(limit=1000, used=500)),
        ("5:memory:/", memory_1("9223372036854771712"), None),
    ],
)
def test_limited_memory(root: Path, cgroups: str, files: Files, expected: Memory | None) -> None:
    write(root, cgroups, files)
    assert limited_memory(root) == expected


OF_CGROUP = {"sys/fs/cgroup/pod/memory.events": "max 9\noom 4\noom_kill 3\noom_group_kill 0"}
OF_CGROUP_1 = {"sys/fs/cgroup/memory/pod/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2"}
OF_MACHINE = {"proc/vmstat": "nr_free_pages 5\noom_kill 70"}


@pytest.mark.parametrize(
    ("cgroups", "files", "kills"),
    [
        ("0::/pod", OF_CGROUP | OF_MACHINE, 3),
        ("4:memory:/pod\n0::/", OF_CGROUP_1 | OF_MACHINE, 2),
        ("0::/", OF_MACHINE, 70),
        ("0::/", {}, None),
    ],
)
def test_oom_kills(root: Path, cgroups: str, files: Files, kills: int | None) -> None:
    write(root, cgroups, files)
    assert oom_kills(root) == kills
