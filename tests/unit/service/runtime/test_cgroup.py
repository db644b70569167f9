import os
from pathlib import Path

import pytest

from service.runtime.cgroup import Memory, limited_memory, oom_kills, usable_cores


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file system of a machine with eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    (tmp_path / "proc/self").mkdir(parents=True)
    return tmp_path


def belongs_to(root: Path, *lines: str) -> None:
    (root / "proc/self/cgroup").write_text("".join(f"{line}\n" for line in lines))


def limit(root: Path, quota: str, cgroup: str = "") -> None:
    """A cgroup of version 2."""
    folder = root / "sys/fs/cgroup" / cgroup
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(quota)


def limit_version_1(root: Path, quota: str, cgroup: str = "", period: str = "100000") -> None:
    folder = root / "sys/fs/cgroup/cpu" / cgroup
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu.cfs_period_us").write_text(f"{period}\n")


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000", 8),
        ("400000 100000", 4),
        ("100000 50000", 2),
        ("250000 100000", 2),
        ("150000 100000", 1),
        ("50000 100000", 1),
        ("1600000 100000", 8),
        ("", 8),
        ("nonsense", 8),
        ("100000 0", 8),
    ],
)
def test_a_quota_limits_the_cores(root: Path, quota: str, cores: int) -> None:
    belongs_to(root, "0::/")
    limit(root, quota)
    assert usable_cores(root) == cores


@pytest.mark.parametrize(
    ("quota", "cores"), [("-1", 8), ("400000", 4), ("150000", 1), ("50000", 1), ("", 8), ("nonsense", 8)]
)
def test_a_quota_of_version_1_limits_the_cores(root: Path, quota: str, cores: int) -> None:
    belongs_to(root, "9:name=systemd:/", "4:cpu,cpuacct:/", "0::/")
    limit_version_1(root, quota)
    assert usable_cores(root) == cores


def test_a_period_of_version_1_counts(root: Path) -> None:
    belongs_to(root, "1:cpu:/")
    limit_version_1(root, "100000", period="50000")
    assert usable_cores(root) == 2


@pytest.mark.parametrize("tightest", ["", "system.slice", "system.slice/fitting-room.service"])
def test_the_tightest_quota_counts(root: Path, tightest: str) -> None:
    belongs_to(root, "0::/system.slice/fitting-room.service")
    for cgroup in ("", "system.slice", "system.slice/fitting-room.service"):
        limit(root, "300000 100000" if cgroup == tightest else "600000 100000", cgroup)
    assert usable_cores(root) == 3


def test_other_cgroups_do_not_count(root: Path) -> None:
    belongs_to(root, "2:cpuset:/small", "1:cpu:/docker/ours", "0::/small")
    limit_version_1(root, "100000", "docker/other")
    limit_version_1(root, "500000", "docker/ours")
    limit_version_1(root, "100000", "small")
    assert usable_cores(root) == 5


def test_a_container_without_cgroup_namespace(root: Path) -> None:
    # Docker without a cgroup namespace: the path is the machine's, the mount shows the container's part alone.
    belongs_to(root, "1:cpu:/docker/bbc7a2ac4200")
    limit_version_1(root, "200000")
    assert usable_cores(root) == 2


def test_a_process_outside_its_namespace(root: Path) -> None:
    belongs_to(root, "0::/../elsewhere")
    limit(root, "200000 100000")
    limit(root, "100000 100000", "../elsewhere")
    assert usable_cores(root) == 2


def test_without_a_cgroup_the_affinity_decides(root: Path) -> None:
    assert usable_cores(root) == 8


@pytest.mark.parametrize(("counted", "cores"), [(6, 6), (None, 1)])
def test_without_affinity_the_machines_cores_count(
    root: Path, monkeypatch: pytest.MonkeyPatch, counted: int | None, cores: int
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: counted)
    assert usable_cores(root) == cores


def limit_memory(root: Path, limit: str, used: int = 0, from_files: int = 0, cgroup: str = "") -> None:
    folder = root / "sys/fs/cgroup" / cgroup
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 100\nactive_file 20\ninactive_file {from_files}\n")


def test_memory_is_without_cached_files(root: Path) -> None:
    belongs_to(root, "0::/")
    limit_memory(root, "1000", used=700, from_files=200)
    assert limited_memory(root) == Memory(limit=1000, used=500)


def test_memory_of_version_1(root: Path) -> None:
    belongs_to(root, "5:memory:/")
    folder = root / "sys/fs/cgroup/memory"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text("1000\n")
    (folder / "memory.usage_in_bytes").write_text("700\n")
    (folder / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 200\n")
    assert limited_memory(root) == Memory(limit=1000, used=500)
    (folder / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert limited_memory(root) is None


def test_the_tightest_limit_of_memory_counts(root: Path) -> None:
    belongs_to(root, "0::/system.slice/fitting-room.service")
    limit_memory(root, "max")
    limit_memory(root, "1000", used=900, cgroup="system.slice")
    limit_memory(root, "500", used=100, cgroup="system.slice/fitting-room.service")
    assert limited_memory(root) == Memory(limit=500, used=100)


@pytest.mark.parametrize("limit", ["max", "", "nonsense"])
def test_memory_without_a_limit(root: Path, limit: str) -> None:
    assert limited_memory(root) is None
    belongs_to(root, "0::/")
    limit_memory(root, limit)
    assert limited_memory(root) is None


def test_oom_kills_of_the_cgroup(root: Path) -> None:
    belongs_to(root, "0::/pod")
    (folder := root / "sys/fs/cgroup/pod").mkdir(parents=True)
    (root / "proc/vmstat").write_text("nr_free_pages 5\noom_kill 70\n")
    (folder / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 4\noom_kill 3\noom_group_kill 0\n")
    assert oom_kills(root) == 3


def test_oom_kills_of_version_1(root: Path) -> None:
    belongs_to(root, "4:memory:/pod", "0::/")
    (folder := root / "sys/fs/cgroup/memory/pod").mkdir(parents=True)
    (folder / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert oom_kills(root) == 2


def test_oom_kills_of_the_machine(root: Path) -> None:
    assert oom_kills(root) is None
    belongs_to(root, "0::/")
    (root / "proc/vmstat").write_text("nr_free_pages 5\noom_kill 70\n")
    assert oom_kills(root) == 70
