import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from service.stores.errors import StoreError
from service.stores.location import Location
from service.stores.sources import File, Source, source_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def meta(path: str, size: int, etag: str | None = '"1"') -> dict[str, Any]:
    return {"path": path, "size": size, "e_tag": etag, "last_modified": NOW}


@pytest.fixture
def listed() -> list[dict[str, Any]]:
    return [meta("m/1/saved_model.pb", 5), meta("m/1/old", 1, None)]


@pytest.fixture
def got() -> dict[str, Any]:
    return meta("m/1/saved_model.pb", 5)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch, listed: list[dict[str, Any]], got: dict[str, Any]) -> Source:
    """Of obstore, which lists `listed` and gets `got`."""
    found = SimpleNamespace(meta=got, stream=lambda **_: [b"gra", b"ph"])
    library = SimpleNamespace(list=lambda _store: [listed], get=lambda _store, _path: found)
    monkeypatch.setitem(sys.modules, "obstore", library)
    monkeypatch.setattr("service.stores.cloud.connect", lambda *_: object())
    return source_of(Location("s3", "bucket"))


def test_listing(source: Source) -> None:
    assert source.listing() == [File("m/1/saved_model.pb", 5, "1"), File("m/1/old", 1, str(NOW))]


@pytest.mark.parametrize("folder", ["m", "m/1", "m/1/assets", "n/1/variables"])
def test_empty_objects_for_folders_are_left_out(source: Source, listed: list[dict[str, Any]], folder: str) -> None:
    listed += [meta("m/1/empty", 0), meta(folder, 0)]
    assert [file.path for file in source.listing()] == ["m/1/saved_model.pb", "m/1/old", "m/1/empty"]


def test_file_is_fetched(source: Source, tmp_path: Path) -> None:
    sizes: list[int] = []
    source.fetch(source.listing()[0], tmp_path / "x", sizes.append)
    assert (tmp_path / "x").read_bytes() == b"graph"
    assert sizes == [3, 2]


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        ({}, {"e_tag": '"2"'}, "changed"),
        ({}, {"e_tag": None}, "changed"),
        ({}, {"size": 6}, "changed"),
        ({"size": 6}, {"size": 6}, "unreachable"),
        ({"size": 4}, {"size": 4}, "changed"),
    ],
)
def test_other_file_or_content_is_not_fetched(
    source: Source, listed: list[Any], got: dict[str, Any], tmp_path: Path, before: Any, after: Any, kind: str
) -> None:
    listed[0] |= before
    got |= after
    with pytest.raises(StoreError) as raised:
        source.fetch(source.listing()[0], tmp_path / "x", lambda _size: None)
    assert raised.value.kind == kind


def test_store_with_too_many_files_is_refused(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.stores.sources.MAX_FILES", 1)
    with pytest.raises(StoreError, match="it holds more than 1 files; a models folder is expected"):
        source.listing()
