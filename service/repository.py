"""The repository: which versions exist on disk, as <models>/<model>/<version>/."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class VersionOnDisk:
    """`fingerprint` changes whenever a file of the version appears, vanishes, grows or is written."""

    path: Path
    fingerprint: int


class Repository:
    def __init__(self, root: Path, only_model: str = "") -> None:
        self.root = root
        self.only_model = only_model

    def versions(self) -> dict[tuple[str, int], VersionOnDisk]:
        """Every version by (model, number).

        Names with a dot in front (exports under way) do not count, nor models that no URL can name: with a colon, or
        with bytes that are no text.

        Raises:
            OSError: the root itself cannot be read. Models that vanish meanwhile are passed over.
        """
        found: dict[tuple[str, int], VersionOnDisk] = {}
        for model in sorted(self.root.iterdir()):
            if model.name.startswith(".") or ":" in model.name or not model.name.isprintable():
                continue
            if self.only_model not in ("", model.name):
                continue
            for version in _children(model):
                if version.name.isascii() and version.name.isdigit() and version.is_dir():
                    found[model.name, int(version.name)] = VersionOnDisk(version, _fingerprint(version))
        return found


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _fingerprint(version: Path) -> int:
    stats = []
    for folder, _, names in os.walk(version):
        for name in names:
            try:
                stat = (file := Path(folder, name)).stat()
            except OSError:
                continue
            stats.append((str(file), stat.st_size, stat.st_mtime_ns, stat.st_ino))
    return hash(tuple(sorted(stats)))
