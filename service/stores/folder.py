"""The folder that is fetched into: what the watcher of the workers serves. It holds nothing half done.

<folder>/<model>/<version>/               with a manifest, by which it is known what it was fetched from
<folder>/models.toml                      with a manifest beside it
<folder>/.fetching/                       drafts, and what is being removed
"""

import itertools
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from service.lifecycle.policies import FILE_NAME
from service.lifecycle.repository import Key, version_number
from service.stores.errors import StoreError

MANIFEST = ".store.json"
_DRAFTS = ".fetching"

# Size and ETag of each file, by its path below the version's folder; of an archive, its own.
Identity = dict[str, tuple[int, str]]


class FetchFolder:
    """Written by the fetching process alone."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        """`max_bytes`: 0 for no limit. Raises OSError."""
        self.root = root
        self._max_bytes = max_bytes
        self._drafts = root / _DRAFTS
        self._numbers = itertools.count()
        shutil.rmtree(self._drafts, ignore_errors=True)
        self._drafts.mkdir(parents=True)

    def versions(self) -> dict[Key, Identity]:
        """What was fetched. Other folders are somebody else's, and are left alone."""
        found = {}
        for manifest in self.root.glob(f"*/*/{MANIFEST}"):
            version = manifest.parent
            if version.parent.name == _DRAFTS or (number := version_number(version.name)) is None:
                continue
            if (identity := _read(manifest)) is not None:
                found[version.parent.name, number] = identity
        return found

    @property
    def policies(self) -> Identity | None:
        """What models.toml was fetched from; None if there is none, or it is somebody else's."""
        return _read(self.root / MANIFEST)

    def install_policies(self, draft: Path, identity: Identity) -> None:
        """Raises StoreError."""
        path = self.root / FILE_NAME
        if path.exists() and self.policies is None:
            raise StoreError("refused", f"{path} is there already, and was not fetched; remove it")
        manifest = self.root / MANIFEST
        # Ours, and to be fetched again if this process is killed before the next manifest.
        manifest.write_bytes(b"{}")
        draft.rename(path)
        manifest.write_bytes(msgspec.json.encode(identity))

    def remove_policies(self) -> None:
        (self.root / FILE_NAME).unlink(missing_ok=True)
        (self.root / MANIFEST).unlink(missing_ok=True)

    def draft(self) -> Path:
        """A new empty folder, on the same disk."""
        draft = self._new()
        draft.mkdir()
        return draft

    def install(self, key: Key, draft: Path, identity: Identity) -> None:
        """Make a draft the version, in place of the one that may be there. Raises StoreError."""
        version = self._version(key)
        is_there = version.exists()
        if is_there and not (version / MANIFEST).is_file():
            raise StoreError("refused", f"{version} is there already, and was not fetched; remove it")
        (draft / MANIFEST).write_bytes(msgspec.json.encode(identity))
        version.parent.mkdir(exist_ok=True)
        if is_there:
            # Between the two renames it is missing, for less time than a watcher takes for a removal.
            before = self._new()
            version.rename(before)
            draft.rename(version)
            self.discard(before)
        else:
            draft.rename(version)

    def remove(self, key: Key) -> None:
        before = self._new()
        version = self._version(key)
        version.rename(before)
        with suppress(OSError):
            version.parent.rmdir()
        self.discard(before)

    def discard(self, path: Path) -> None:
        shutil.rmtree(path, ignore_errors=True)

    def make_room(self, size: int, dispensable: Iterable[Key]) -> None:
        """For so many bytes more; removes of the dispensable versions as many as necessary. Raises StoreError."""
        rest = iter(dispensable)
        while (free := self._free()) < size:
            if (key := next(rest, None)) is None:
                raise StoreError(
                    "full", f"there is no room for its {size} bytes in {self.root}: {max(free, 0)} are free"
                )
            self.remove(key)

    def limit(self) -> int:
        """How many bytes more may be written."""
        return max(self._free(), 0)

    def _free(self) -> int:
        free = shutil.disk_usage(self.root).free
        return min(free, self._max_bytes - _size(self.root)) if self._max_bytes else free

    def _version(self, key: Key) -> Path:
        return self.root / key[0] / str(key[1])

    def _new(self) -> Path:
        return self._drafts / str(next(self._numbers))


def _read(manifest: Path) -> Identity | None:
    with suppress(OSError, msgspec.ValidationError, msgspec.DecodeError):
        return msgspec.json.decode(manifest.read_bytes(), type=Identity)
    return None


def files_below(folder: Path) -> list[str]:
    """Their paths below it."""
    return sorted(
        os.path.relpath(os.path.join(parent, name), folder)  # noqa: PTH118
        for parent, _, names in os.walk(folder)
        for name in names
    )


def _size(folder: Path) -> int:
    total = 0
    for name in files_below(folder):
        with suppress(OSError):
            total += (folder / name).lstat().st_size
    return total
