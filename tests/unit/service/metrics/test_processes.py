import os
from pathlib import Path

import pytest

from service.metrics import exposition
from service.metrics.exposition import Usage, usage

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(exposition, "PROC", tmp_path)
    (tmp_path / "stat").write_text("cpu 1 2 3\nbtime 1000\nprocesses 5\n")
    return tmp_path


def add_process(proc: Path, pid: int, cpu: int = 0, of_children: int = 0, start: int = 0, pages: int = 0) -> None:
    """Times in seconds."""
    files = proc / str(pid) / "fd"
    files.mkdir(parents=True)
    (files / "0").touch()
    fields = ["0"] * 40
    fields[11], fields[12], fields[13], fields[14] = str(cpu * TICKS), "0", "0", str(of_children * TICKS)
    fields[19], fields[21] = str(start * TICKS), str(pages)
    (proc / str(pid) / "stat").write_text(f"{pid} (a (strange) name) " + " ".join(fields))


def test_processes_are_added_up_and_the_youngest_is_told(proc: Path) -> None:
    add_process(proc, 1, cpu=2, start=10, pages=3)
    add_process(proc, 2, cpu=3, start=30, pages=4)
    assert usage([1, 2], None) == Usage(5, 7 * PAGE, 2, 1030)


def test_the_time_of_processes_that_ended_stays_counted(proc: Path) -> None:
    add_process(proc, 1, cpu=100, of_children=50)
    add_process(proc, 2, cpu=3, of_children=1)
    # Its end was not noticed yet.
    add_process(proc, 3, cpu=7)
    found = usage([2, 3], parent=1)
    assert found is not None
    assert (found.cpu_seconds, found.open_files) == (50 + 3 + 1 + 7, 2)


def test_a_process_that_ends_meanwhile_takes_nothing(proc: Path) -> None:
    add_process(proc, 1, cpu=2)
    found = usage([1, 2, 3], None)
    assert found is not None
    assert found.cpu_seconds == 2


def test_where_there_is_no_proc_there_is_nothing_to_tell(proc: Path) -> None:
    assert usage([1], None) is None


def test_an_end_between_two_looks_is_counted_once(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_process(proc, 1, of_children=50)
    add_process(proc, 2, cpu=3)
    read = exposition._stat

    def ends_once_read(pid: int) -> list[str]:
        fields = read(pid)
        if pid == 2 and fields:
            (proc / "2" / "stat").unlink()
            (proc / "1" / "stat").unlink()
            (proc / "1" / "fd" / "0").unlink()
            (proc / "1" / "fd").rmdir()
            (proc / "1").rmdir()
            add_process(proc, 1, of_children=53)
        return fields

    monkeypatch.setattr(exposition, "_stat", ends_once_read)
    assert exposition._cpu_ticks([2], parent=1) == 53 * TICKS
