from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.errors import Unavailable
from service.feedback import captured as module
from service.feedback.captured import Search
from service.observability.capture import Captured, Tensor, encode_line


def line(request_id: str, version: int = 1, data: bytes = b"") -> bytes:
    x = {"x": Tensor("UINT8", (len(data),), data)}
    return encode_line(Captured(datetime.now(UTC), request_id, "m", version, "e", "v1", "predict", "s", x, x))


def nobody_left() -> None:
    pass


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """The newer one first."""
    newer, older = tmp_path / "requests.jsonl", tmp_path / "requests.jsonl.1"
    older.write_bytes(line("a", 1) + line("b", 2))
    newer.write_bytes(line("c", 3) + line("a", 4) + b'{"time": "half\n' + line("d", 5))
    return [newer, older]


@pytest.mark.parametrize("chunk_bytes", [1, 7, 100, 1_000, 2**20])
def test_last_line_of_each_id_is_found(files: list[Path], chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk_bytes)
    found, is_all = Search().find(files, {"a", "b", "c", "d", "e"}, nobody_left)
    assert {request_id: one.version for request_id, one in found.items()} == {"a": 4, "b": 2, "c": 3, "d": 5}
    assert is_all


def test_line_longer_than_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 512)
    path = tmp_path / "requests.jsonl"
    path.write_bytes(line("a", data=bytes(10_000)) + line("b", data=bytes(10_000)))
    assert Search().find([path], {"a", "b"}, nobody_left)[0].keys() == {"a", "b"}


@pytest.mark.parametrize("request_id", ['"', "\\", '\\"', 'a","request_id":"b', "\\\\"])
def test_id_with_escapes(tmp_path: Path, request_id: str) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(line(request_id) + line("b", 2))
    found, _ = Search().find([path], {request_id, "b"}, nobody_left)
    assert {name: one.version for name, one in found.items()} == {request_id: 1, "b": 2}


def test_missing_file_has_nothing(tmp_path: Path) -> None:
    assert Search().find([tmp_path / "none"], {"a"}, nobody_left) == ({}, True)


@pytest.mark.parametrize("limits", [{"max_bytes": 1}, {"max_seconds": 0.0}])
def test_search_ends_at_its_limits(files: list[Path], limits: dict[str, float]) -> None:
    times = iter(range(100))
    search = Search(clock=lambda: next(times), **limits)  # type: ignore[arg-type]
    found, is_all = search.find(files, {"a", "b"}, nobody_left)
    assert (list(found), is_all) == (["a"], False)


def test_search_ends_when_nobody_waits(files: list[Path]) -> None:
    def nobody_waits() -> None:
        raise TimeoutError

    search = Search()
    for _ in range(2):
        with pytest.raises(TimeoutError):
            search.find(files, {"a"}, nobody_waits)


def test_second_search_at_a_time_is_rejected(files: list[Path]) -> None:
    search = Search(max_seconds=0.0)
    rejected = []

    def search_again() -> None:
        with pytest.raises(Unavailable):
            search.find(files, {"a"}, nobody_left)
        rejected.append(True)

    search.find(files, {"a"}, search_again)
    assert rejected
