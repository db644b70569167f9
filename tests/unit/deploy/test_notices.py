"""THIRD_PARTY_NOTICES names what the repository and the images hold of others."""

import importlib.metadata
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NOTICES = (ROOT / "THIRD_PARTY_NOTICES").read_text()
VENDORED = sorted((ROOT / "service/static/vendor").iterdir())
PROTOS = sorted((ROOT / "service/api/grpc/protos").glob("*.proto"))
MODELS = sorted(path for path in (ROOT / "models").iterdir() if path.is_dir())
PACKAGES = {
    found
    for lock in ("serve-otel", "full-otel")
    for found in re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / f"requirements/{lock}.txt").read_text(), re.MULTILINE)
}


@pytest.mark.parametrize("folder", VENDORED, ids=lambda path: path.name)
def test_vendored_library_is_named_and_has_its_licence(folder: Path) -> None:
    name, _, version = folder.name.rpartition("-")
    assert re.search(rf"^{re.escape(name)} {re.escape(version)} ", NOTICES, re.MULTILINE)
    assert (folder / "LICENSE").is_file()


@pytest.mark.parametrize("path", [*PROTOS, *MODELS], ids=lambda path: path.name)
def test_origin_is_named(path: Path) -> None:
    assert re.search(rf"\b{re.escape(path.name)}\b", NOTICES)


@pytest.mark.parametrize(("name", "version"), sorted(PACKAGES))
def test_package_brings_its_licence_or_is_named(name: str, version: str) -> None:
    try:
        files = importlib.metadata.distribution(name).files or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("for another machine")
    if not any(re.match("licen[cs]e|copying|notice", file.name, re.IGNORECASE) for file in files):
        assert f"{name} {version}" in NOTICES
