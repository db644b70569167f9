"""The files beside a version that people look at: model card, figures, samples."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.drift.card import read_metrics
from service.errors import NotFound
from service.serving_config import ASSETS

# Of these, the first that is there; else any picture.
THUMBNAILS = ("sample", "fitted_line", "confusion_matrix")
PICTURES = (".jpeg", ".jpg", ".png")
MAX_THUMBNAIL_BYTES = 250_000
# By the ending of the name. Other files are not served.
CONTENT_TYPES = {
    ".csv": "text/csv; charset=utf-8",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".md": "text/plain; charset=utf-8",
    ".png": "image/png",
}


@dataclass(frozen=True, slots=True)
class VersionFile:
    """`name`: its path in `assets.extra`, with "/"."""

    name: str
    size: int


class VersionFiles:
    """The files of the version in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._assets = folder / ASSETS

    def shown(self) -> list[VersionFile]:
        return sorted(self._shown(), key=lambda file: file.name)

    def read(self, name: str) -> tuple[bytes, str]:
        """A file's bytes and content type.

        Raises:
            NotFound: it is not among those shown.
        """
        # Only a name that the folder itself gave: no path of a client ever reaches the file system.
        if name not in {file.name for file in self._shown()}:
            raise NotFound(f"no such file: {name[:80]!r}")
        path = self._assets / name
        try:
            return path.read_bytes(), CONTENT_TYPES[path.suffix]
        except OSError:
            raise NotFound(f"no such file: {name[:80]!r}") from None

    def metrics(self) -> Mapping[str, Any] | None:
        """metrics.json; None where there is none that can be read."""
        return read_metrics(self._folder)

    def thumbnail(self) -> str | None:
        """The name of a small picture that shows what the version is about; None where there is none."""

        def rank(file: VersionFile) -> tuple[int, str]:
            places = [place for place, stem in enumerate(THUMBNAILS) if file.name.startswith(stem)]
            return (places[0] if places else len(THUMBNAILS), file.name)

        pictures = (file for file in self._shown() if file.name.endswith(PICTURES) and file.size <= MAX_THUMBNAIL_BYTES)
        first = min(pictures, key=rank, default=None)
        return first.name if first else None

    def total_size(self) -> int:
        """Of the whole version, in bytes."""
        return sum(entry.stat().st_size for entry in _files(self._folder))

    def _shown(self) -> Iterator[VersionFile]:
        for entry in _files(self._assets):
            path = Path(entry.path)
            if path.suffix in CONTENT_TYPES and not entry.is_symlink():
                yield VersionFile(path.relative_to(self._assets).as_posix(), entry.stat().st_size)


def _files(folder: Path | str) -> Iterator["os.DirEntry[str]"]:
    """Within it, at any depth. Three times as fast as `rglob`: the list of models looks at every version."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
            elif entry.is_file():
                yield entry
