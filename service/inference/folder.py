"""A version's folder: which files it is loaded from, and whether they have changed since."""

import hashlib
import os
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from service.serving_config import ASSETS, CONFIG_FILE, TWIN_FILE

# Size, modification time (ns) and inode number of a file.
FileState = tuple[int, int, int]

# The files in `assets.extra` that are loaded with the version. The others are for people only.
_LOADED_ASSETS = {
    os.path.join(ASSETS, name)  # noqa: PTH118
    for name in (CONFIG_FILE, TWIN_FILE, "metrics.json", "reference.json", "tf_serving_warmup_requests")
}


class Folder:
    """The folder that a version was loaded from, whatever its path leads to later.

    It is held open, so that the file system does not give its inode number to another folder. `path`: where it was,
    without links. `identity`: folder and files as they were when loaded, the same in every process of this machine.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self.path = Path(os.path.realpath(path))
        descriptor = os.open(self.path, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY)
        weakref.finalize(self, os.close, descriptor)
        self._inode = _inode(os.fstat(descriptor))
        self._files = _loaded_files(self.path)
        self.identity = f"{self._inode}:{_digest(self._files)}"

    def is_replaced(self, path: Path) -> bool:
        """Whether `path` is another folder now. A folder that is missing is not replaced."""
        try:
            return _inode(path.stat()) != self._inode
        except OSError:
            return False

    def changed_files(self, path: Path) -> dict[str, FileState | None]:
        """The files that are not as they were when the folder was opened; None for a file that is gone.

        `path`: where the folder is now. If it is missing, nothing has changed.
        """
        if not path.is_dir():
            return {}
        now = _loaded_files(path)
        return {
            name: now.get(name) for name in sorted(now.keys() | self._files) if now.get(name) != self._files.get(name)
        }


def fingerprint(version: Path) -> int:
    """A hash that changes when a file of the version appears, vanishes or is written, or the folder is replaced."""
    files = list(_files(version))
    with suppress(OSError):
        files.append(("", (0, 0, version.stat().st_ino)))
    return hash(tuple(sorted(files)))


def folder_entries(folder: "os.PathLike[str] | str") -> list["os.DirEntry[str]"]:
    """Sorted by name; empty if `folder` is missing or no folder. Raises OSError if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _inode(stat: os.stat_result) -> str:
    return f"{stat.st_dev:x}:{stat.st_ino:x}"


def _digest(files: Mapping[str, FileState]) -> str:
    return hashlib.sha256(repr(sorted(files.items())).encode(errors="surrogateescape")).hexdigest()[:16]


def _loaded_files(version: Path) -> dict[str, FileState]:
    """By path within the version's folder."""
    files = {os.path.relpath(path, version): state for path, state in _files(version)}
    return {
        name: state for name, state in files.items() if not name.startswith(ASSETS + os.sep) or name in _LOADED_ASSETS
    }


def _files(version: Path) -> Iterator[tuple[str, FileState]]:
    folders = [str(version)]
    while folders:
        try:
            entries = folder_entries(folders.pop())
        except OSError:
            continue
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    stat = entry.stat()
                    yield entry.path, (stat.st_size, stat.st_mtime_ns, stat.st_ino)
            except OSError:
                continue
