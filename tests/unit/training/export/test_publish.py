import stat
import threading
from pathlib import Path

import pytest

from training.export.publish import next_version, publish, staging


def nothing(version: int) -> None:
    pass


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_first_version_is_1(tmp_path: Path) -> None:
    with staging(tmp_path / "new" / "model") as folder:
        (folder / "saved_model.pb").write_text("graph")
        version_dir = publish(folder, nothing)
    assert version_dir == tmp_path / "new" / "model" / "1"
    assert names(version_dir.parent) == ["1"]
    assert (version_dir / "saved_model.pb").read_text() == "graph"


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ([], 1),
        (["1"], 2),
        (["1", "2", "10"], 11),
        (["3"], 4),
        (["007"], 8),
        ([".export-9", "2x", "x", "٣"], 1),
        (["20260312103015123456", "7"], 8),
    ],
)
def test_next_number_follows_the_highest(there: list[str], expected: int, tmp_path: Path) -> None:
    for name in there:
        (tmp_path / name).mkdir()
    assert next_version(tmp_path) == expected


def test_file_named_like_a_version_is_kept(tmp_path: Path) -> None:
    (tmp_path / "4").write_text("notes")
    assert next_version(tmp_path) == 5


def test_loser_of_a_race_takes_the_next_number(tmp_path: Path) -> None:
    seen = []

    def rival_is_faster(version: int) -> None:
        seen.append(version)
        if version == 1:
            (tmp_path / "1").mkdir()
            (tmp_path / "1" / "saved_model.pb").write_text("the rival's")

    with staging(tmp_path) as folder:
        (folder / "saved_model.pb").write_text("ours")
        assert publish(folder, rival_is_faster) == tmp_path / "2"
    assert seen == [1, 2]
    assert (tmp_path / "1" / "saved_model.pb").read_text() == "the rival's"
    assert (tmp_path / "2" / "saved_model.pb").read_text() == "ours"


def test_eight_exports_at_once_get_eight_numbers(tmp_path: Path) -> None:
    start = threading.Barrier(8)

    def export(which: int) -> None:
        with staging(tmp_path) as folder:
            (folder / "who").write_text(str(which))
            start.wait(timeout=30)
            publish(folder, nothing)

    threads = [threading.Thread(target=export, args=[which]) for which in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert names(tmp_path) == [str(version) for version in range(1, 9)]
    assert sorted((tmp_path / str(version) / "who").read_text() for version in range(1, 9)) == list("01234567")


def test_other_rename_error_is_raised(tmp_path: Path) -> None:
    def lose_the_folder(version: int) -> None:
        folder.rename(tmp_path / ".gone")

    with staging(tmp_path) as folder, pytest.raises(FileNotFoundError):
        publish(folder, lose_the_folder)


@pytest.mark.parametrize("stopped_by", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_interrupted_export_leaves_nothing(stopped_by: type[BaseException], tmp_path: Path) -> None:
    def stop(version: int) -> None:
        raise stopped_by

    def export() -> None:
        with staging(tmp_path) as folder:
            (folder / "variables").mkdir()
            (folder / "variables" / "half").write_text("writ")
            publish(folder, stop)

    with pytest.raises(stopped_by):
        export()
    assert names(tmp_path) == []


def test_staging_folder_is_hidden(tmp_path: Path) -> None:
    with staging(tmp_path) as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith(".")


def test_every_user_can_read_a_version(tmp_path: Path) -> None:
    with staging(tmp_path) as folder:
        (folder / "variables").mkdir(mode=0o700)
        (folder / "variables" / "data").touch(mode=0o600)
        version_dir = publish(folder, nothing)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [version_dir, *version_dir.rglob("*")]}
    assert modes == {"1": 0o755, "variables": 0o755, "data": 0o644}
