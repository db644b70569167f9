import errno
from pathlib import Path

import pytest

from service.board import Board, Report, Slow, forget_worker


def test_workers_read_what_the_others_have_published(tmp_path: Path) -> None:
    one, other = Board(tmp_path, 1), Board(tmp_path, 2)
    report = Report({"model": {1: "PREPARED"}}, {"model": 5})
    one.publish(report)
    other.publish(Report())
    assert other.others() == [report]
    assert one.others() == [Report()]
    assert report.of("model", 1) == "PREPARED"
    assert report.of("model", 2) is report.of("other", 1) is None


def test_what_has_not_changed_is_not_written_again(tmp_path: Path) -> None:
    board = Board(tmp_path, 1)
    board.publish(Report({"model": {1: "START"}}))
    (file,) = tmp_path.iterdir()
    before = file.stat().st_ino
    board.publish(Report({"model": {1: "START"}}))
    assert file.stat().st_ino == before
    board.publish(Report())
    assert Board(tmp_path, 2).others() == [Report()]


def test_a_worker_that_has_ended_does_not_count(tmp_path: Path) -> None:
    Board(tmp_path, 1).publish(Report())
    forget_worker(tmp_path, 1)
    forget_worker(tmp_path, 4711)
    assert Board(tmp_path, 2).others() == []


def test_a_wish_reaches_every_worker_and_the_last_one_counts(tmp_path: Path) -> None:
    one, other = Board(tmp_path, 1), Board(tmp_path, 2)
    first = one.wish("a model/with any name", "unload")
    last = other.wish("a model/with any name", "load")
    assert last > first
    for board in (one, other):
        (wish,) = board.wishes().values()
        assert (wish.model, wish.action, wish.number) == ("a model/with any name", "load", last)


def test_what_is_half_written_is_not_read(tmp_path: Path) -> None:
    (tmp_path / ".worker-1-draft").write_text("{")
    assert Board(tmp_path, 2).others() == []
    assert Board(tmp_path, 2).wishes() == {}


def test_on_a_full_disk_a_worker_goes_on_and_tells_the_others_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def write_bytes(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    board = Board(tmp_path, 1)
    board.publish(Report())
    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", write_bytes)
        for _ in range(3):
            board.publish(Report({"model": {1: "PREPARED"}}))
        with pytest.raises(OSError, match="No space left"):
            board.wish("model", "load")
    assert caplog.text.count("cannot be told of versions: No space left on device") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["worker-1"]
    assert board.wishes() == {}
    board.publish(Report({"model": {1: "PREPARED"}}))
    assert Board(tmp_path, 2).others() == [Report({"model": {1: "PREPARED"}})]


def test_a_worker_that_is_alone_needs_no_folder() -> None:
    board = Board()
    board.publish(Report())
    number = board.wish("model", "load")
    assert board.others() == []
    assert board.wishes()["model"].number == number


def test_a_version_that_no_event_loop_is_to_run_is_known_to_all_workers_and_to_those_that_come(tmp_path: Path) -> None:
    one, other = Board(tmp_path, 1), Board(tmp_path, 2)
    one.note_slow(Slow("a model/with any name", 1))
    other.note_slow(Slow("model", 2))
    forget_worker(tmp_path, 1)
    for board in (one, other, Board(tmp_path, 3)):
        assert board.slow() == {Slow("a model/with any name", 1), Slow("model", 2)}
    assert one.wishes() == {}


def test_a_worker_that_is_alone_remembers_it_as_long_as_it_lives() -> None:
    board = Board()
    board.note_slow(Slow("model", 1))
    assert board.slow() == {Slow("model", 1)}
