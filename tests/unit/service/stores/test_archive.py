import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from service.stores.archive import unpack
from service.stores.errors import StoreError

MAX_BYTES = 100_000


def tar_of(*members: tuple[str, dict[str, Any], bytes]) -> bytes:
    """Of name, attributes and content of each."""
    with io.BytesIO() as out:
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, attributes, content in members:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                for attribute, value in attributes.items():
                    setattr(member, attribute, value)
                tar.addfile(member, io.BytesIO(content))
        return out.getvalue()


GOOD = tar_of(("./1", {"type": tarfile.DIRTYPE}, b""), ("./1/saved_model.pb", {"mode": 0o4777}, b"graph"))
DAMAGED = "it is no tar file, or damaged or truncated"
LARGE = tar_of(("a", {}, bytes(MAX_BYTES)), ("b", {}, bytes(MAX_BYTES)))
LONG_NAME = tar_of(("x" * 20_000_000, {}, b""))


def unpacked(archive: bytes, tmp_path: Path) -> Path:
    (tmp_path / "archive").write_bytes(archive)
    (target := tmp_path / "outer" / "target").mkdir(parents=True)
    unpack(tmp_path / "archive", target, MAX_BYTES)
    return target


@pytest.mark.parametrize("archive", [GOOD, gzip.compress(GOOD)], ids=["tar", "tar.gz"])
def test_files_are_unpacked(archive: bytes, tmp_path: Path) -> None:
    graph = unpacked(archive, tmp_path) / "1" / "saved_model.pb"
    assert graph.read_bytes() == b"graph"
    assert not graph.stat().st_mode & 0o7000


@pytest.mark.parametrize(
    ("archive", "kind", "message"),
    [
        (tar_of(("../../outside", {}, b"x")), "refused", "'../../outside' in it leads out of it"),
        (tar_of(("1/../../x", {}, b"x")), "refused", "leads out of it"),
        (tar_of(("/etc/x", {}, b"x")), "refused", "'/etc/x' in it has an absolute path"),
        (tar_of(("l", {"type": tarfile.SYMTYPE, "linkname": "/etc"}, b"")), "refused", "neither a file nor a folder"),
        (tar_of(("pipe", {"type": tarfile.FIFOTYPE}, b"")), "refused", "neither a file nor a folder"),
        (LARGE, "full", f"unpacked it has more than {MAX_BYTES} bytes"),
        (gzip.compress(LARGE), "full", f"unpacked it has more than {MAX_BYTES} bytes"),
        (gzip.compress(LONG_NAME), "refused", "one of its headers is too long"),
        (gzip.compress(GOOD)[:-20], "refused", DAMAGED),
        (GOOD[:1100], "refused", DAMAGED),
        (GOOD[:512] + b"damaged" * 80 + GOOD[1072:], "refused", DAMAGED),
        (b"", "refused", DAMAGED),
        (b"<html>not found</html>", "refused", DAMAGED),
    ],
)
def test_others_are_refused(archive: bytes, kind: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=message) as raised:
        unpacked(archive, tmp_path)
    assert raised.value.kind == kind
    assert [path.name for path in (tmp_path / "outer").iterdir()] == ["target"]


def test_number_of_files_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.stores.archive.MAX_MEMBERS", 1)
    with pytest.raises(StoreError, match="it holds more than 1 files"):
        unpacked(GOOD, tmp_path)
