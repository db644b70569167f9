from pathlib import Path
from typing import Any

import pytest

from service.settings import Settings
from service.stores.location import InvalidLocation, Location, fetched, location_of, parse

AZURE = "https://me.blob.core.windows.net/c/p"
ARCHIVE = "https://u:secret@h:8443/a/m.tar.gz?sig=secret"


@pytest.mark.parametrize(
    ("text", "location", "shown", "name"),
    [
        ("s3://b_1/a/models/", Location("s3", "b_1", "a/models"), "s3://b_1/a/models", "models"),
        ("s3://b/50%25", Location("s3", "b", "50%25"), "s3://b/50%25", "50%25"),
        ("gs://b", Location("gs", "b"), "gs://b", "b"),
        ("az://c/p", Location("az", "c", "p"), "az://c/p", "p"),
        (f"{AZURE}?sig=secret", Location("az", "c", "p", account="me", query="sig=secret"), AZURE, "p"),
        (ARCHIVE, Location("https", "h:8443", "a/m.tar.gz", url=ARCHIVE), "https://h:8443/a/m.tar.gz", "m"),
        ("hf://o/m.v1", Location("hf", "o/m.v1"), "hf://o/m.v1", "m.v1"),
        ("hf://o/m@refs/pr/1", Location("hf", "o/m", revision="refs/pr/1"), "hf://o/m@refs/pr/1", "m"),
        ("hf://o/m:abc", Location("hf", "o/m", revision="abc"), "hf://o/m@abc", "m"),
    ],
)
def test_urls(text: str, location: Location, shown: str, name: str) -> None:
    found = parse(text)
    assert (found, str(found), found and found.name) == (location, shown, name)
    assert "secret" not in repr(found)


def test_folder_is_no_store() -> None:
    assert parse("/srv/models") is None


@pytest.mark.parametrize(
    "text",
    [
        "s3://",
        "s3://key:secret@b/p",
        "gs://b/p?sig=secret",
        "http://h/secret.tar.gz",
        "https://h/secret",
        "https://me.blob.core.windows.net/?secret",
        "https://h:port/secret.tar",
        "hf://secret",
    ],
)
def test_other_urls_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidLocation, match="expected a folder, s3://bucket/prefix") as raised:
        parse(text)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "scheme"),
    [
        ({"models": "s3://b/p"}, "s3"),
        ({"models": "s3://b/p", "base_path": "gs://b/p"}, "gs"),
        ({"models": "s3://b/p", "base_path": "/srv/m"}, None),
        ({"models": "s3://b/p", "model_config_file": "/c"}, None),
    ],
)
def test_setting_that_counts(settings: Any, scheme: str | None) -> None:
    found = location_of(Settings(**settings))
    assert (found.scheme if found else None) == scheme


def test_models_are_served_from_the_folder(tmp_path: Path) -> None:
    location = Location("s3", "b", "p")
    found = fetched(Settings(models="s3://b/p", store_folder=str(tmp_path)), location)
    assert (found.models, found.base_path) == (str(tmp_path), "")
    found = fetched(Settings(base_path="s3://b/p", store_folder=str(tmp_path)), location)
    assert (found.base_path, found.model_name) == (str(tmp_path / "p"), "p")
    assert fetched(Settings(base_path="s3://b/p", model_name="m"), location).model_name == "m"


def test_folder_by_default_is_in_the_cache_and_of_this_store_and_port(tmp_path: Path) -> None:
    def folder(bucket: str, port: int) -> str:
        return fetched(Settings(port=port), Location("s3", bucket), {"XDG_CACHE_HOME": str(tmp_path)}).store_folder

    folders = [folder("a", 1), folder("a", 1), folder("a", 2), folder("b", 1)]
    assert folders[0] == folders[1]
    assert len(set(folders)) == 3
    assert all(Path(one).is_relative_to(tmp_path / "fitting-room") for one in folders)
