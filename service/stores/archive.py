"""Unpack an archive that a stranger may have made: plain files and folders within the target, of bounded size."""

import gzip
import tarfile
import zlib
from pathlib import Path
from typing import BinaryIO, cast

from service.stores.errors import StoreError

MAX_MEMBERS = 100_000
# The longest read that tarfile needs, of names; it would read a header of any length at once.
MAX_READ_BYTES = 16 * 1024 * 1024
_GZIP = b"\x1f\x8b"


def unpack(archive: Path, target: Path, max_bytes: int) -> None:
    """Unpack a tar file, compressed by gzip or not, into an empty folder.

    Raises StoreError: `refused` for what is no such file, is damaged, or holds anything but files and folders below it;
    `full` if it is larger than `max_bytes` when unpacked.
    """
    with archive.open("rb") as file:
        is_compressed = file.read(2) == _GZIP
        file.seek(0)
        stream = _Bounded(gzip.GzipFile(fileobj=file) if is_compressed else file, max_bytes)
        try:
            _unpack(stream, target)
        except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError):
            raise StoreError("refused", "the archive is refused: it is no tar file, or damaged or truncated") from None


def _unpack(stream: "_Bounded", target: Path) -> None:
    with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r:") as tar:
        for count, member in enumerate(tar):
            if fault := _fault(member, count):
                raise StoreError("refused", f"the archive is refused: {fault}")
            tar.extract(member, target, set_attrs=False, filter="data")
        # tarfile ends quietly at a damaged header; gzip checks its sum at the end.
        while rest := stream.read(tarfile.RECORDSIZE):
            if rest.strip(b"\0"):
                raise tarfile.ReadError


def _fault(member: tarfile.TarInfo, count: int) -> str | None:
    name = ascii(member.name)
    if count >= MAX_MEMBERS:
        return f"it holds more than {MAX_MEMBERS} files"
    if member.name.startswith("/"):
        return f"{name} in it has an absolute path"
    if ".." in member.name.split("/"):
        return f"{name} in it leads out of it"
    if not (member.isreg() or member.isdir()):
        return f"{name} in it is neither a file nor a folder"
    return None


class _Bounded:
    """What tarfile needs of a file, with limits to what a small archive can make of itself."""

    def __init__(self, file: "BinaryIO | gzip.GzipFile", max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        if size > MAX_READ_BYTES:
            raise StoreError("refused", "the archive is refused: one of its headers is too long")
        self._check(self._file.tell() + size)
        return self._file.read(size)

    def seek(self, place: int) -> int:
        self._check(place)
        return self._file.seek(place)

    def _check(self, end: int) -> None:
        # The last block is read as a whole.
        if end > self._max_bytes + tarfile.RECORDSIZE:
            raise StoreError("full", f"the archive is refused: unpacked it has more than {self._max_bytes} bytes")
