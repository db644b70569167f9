import os
from pathlib import Path

import pytest

from service.host import usable_cores


@pytest.fixture
def quota_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cgroup's cpu.max, on a machine with eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return tmp_path / "cpu.max"


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000", 8),
        ("400000 100000", 4),
        ("250000 100000", 2),
        ("1600000 100000", 8),
        ("50000 100000", 1),
        ("", 8),
        ("nonsense", 8),
    ],
)
def test_the_quota_of_the_container_limits_the_cores(quota_file: Path, quota: str, cores: int) -> None:
    quota_file.write_text(quota)
    assert usable_cores(quota_file) == cores


def test_without_a_cgroup_the_affinity_decides(quota_file: Path) -> None:
    assert usable_cores(quota_file) == 8


@pytest.mark.parametrize(("counted", "cores"), [(6, 6), (None, 1)])
def test_where_there_is_no_affinity_the_machines_cores_count(
    quota_file: Path, monkeypatch: pytest.MonkeyPatch, counted: int | None, cores: int
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: counted)
    assert usable_cores(quota_file) == cores
