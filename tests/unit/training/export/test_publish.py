import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from training.export.publish import next_version, publish, staging


def nothing(version: int) -> None:
    pass


def export(model_dir: Path, who: str = "ours", finish: Callable[[int], None] = nothing) -> Path:
    with staging(model_dir) as folder:
        (folder / "variables").mkdir(mode=0o700)
        (folder / "variables" / "data").touch(mode=0o600)
        (folder / "variables" / "data").write_text(who)
        return publish(folder, finish)


def read(model_dir: Path) -> dict[str, str]:
    """Who wrote each version; nothing else is there."""
    return {path.name: (path / "variables" / "data").read_text() for path in model_dir.iterdir()}


def test_first_version_is_1_and_every_user_can_read_it(tmp_path: Path) -> None:
    version_dir = export(tmp_path / "new" / "model")
    assert version_dir == tmp_path / "new" / "model" / "1"
    assert read(version_dir.parent) == {"1": "ours"}
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [version_dir, *version_dir.rglob("*")]}
    assert modes == {"1": 0o755, "variables": 0o755, "data": 0o644}


@pytest.mark.parametrize(
    ("there", "expected"),
    [([], 1), (["1", "2", "10"], 11), (["007"], 8), ([".export-9", "2x", "٣"], 1), (["20260312103015123456", "7"], 8)],
)
def test_next_number_follows_the_highest(there: list[str], expected: int, tmp_path: Path) -> None:
    for name in there:
        (tmp_path / name).mkdir()
    assert next_version(tmp_path) == expected
    (tmp_path / "12").write_text("a file is kept, too")
    assert next_version(tmp_path) == 13


def test_loser_of_a_race_takes_the_next_number(tmp_path: Path) -> None:
    seen = []

    def rival_is_faster(version: int) -> None:
        seen.append(version)
        if version == 1:
            export(tmp_path, "the rival")

    assert export(tmp_path, finish=rival_is_faster) == tmp_path / "2"
    assert seen == [1, 2]
    assert read(tmp_path) == {"1": "the rival", "2": "ours"}


def test_eight_exports_at_once_get_eight_numbers(tmp_path: Path) -> None:
    all_want_1 = threading.Barrier(8)

    def finish(version: int) -> None:
        if version == 1:
            all_want_1.wait(timeout=30)

    threads = [threading.Thread(target=export, args=[tmp_path, who, finish]) for who in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    found = read(tmp_path)
    assert sorted(found) == [str(version) for version in range(1, 9)]
    assert sorted(found.values()) == [*"abcdefgh"]


def test_other_rename_error_is_raised(tmp_path: Path) -> None:
    def lose_the_folder(version: int) -> None:
        (folder,) = tmp_path.iterdir()
        folder.rename(tmp_path / ".gone")

    with pytest.raises(FileNotFoundError):
        export(tmp_path, finish=lose_the_folder)


@pytest.mark.parametrize("stopped_by", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_interrupted_export_leaves_nothing(stopped_by: type[BaseException], tmp_path: Path) -> None:
    def stop(version: int) -> None:
        (folder,) = tmp_path.iterdir()
        assert folder.name.startswith("."), "servers load it"
        raise stopped_by

    with pytest.raises(stopped_by):
        export(tmp_path, finish=stop)
    assert list(tmp_path.iterdir()) == []
