"""A folder of pictures, one folder a class, as arrays: decoded and resized as the service does it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.errors import ServingError
from service.serving_config import ImageSpec
from service.tensors.image import decode_picture
from training.data import Integers
from training.errors import DatasetError

Pictures = npt.NDArray[np.uint8]

MAX_PIXELS = 50_000_000  # of one picture; what the service takes unless told otherwise


@dataclass(frozen=True)
class PictureFolder:
    """`labels` [n] index into `names`; `skipped` names each file that could not be read, and says why."""

    names: tuple[str, ...]
    files: tuple[Path, ...]
    pixels: Pictures
    labels: Integers
    skipped: tuple[str, ...]

    def larger(self, spec: ImageSpec, places: Integers) -> Pictures:
        """Reads some of the pictures again, in another size."""
        return np.stack([_decode(self.files[place], spec) for place in places])

    def part(self, places: Integers) -> "PictureFolder":
        files = tuple(self.files[place] for place in places)
        return replace(self, files=files, pixels=self.pixels[places], labels=self.labels[places])


def read(folder: Path, spec: ImageSpec, min_count: int, names: tuple[str, ...] | None = None) -> PictureFolder:
    """Reads every picture below `folder`/<class>, in the order of the names.

    `names`: the classes, where they are known already. DatasetError if there are fewer than two classes, or one has
    fewer than `min_count` pictures.
    """
    classes = _classes(folder, names)
    files: list[Path] = []
    labels: list[int] = []
    pixels: list[npt.NDArray[Any]] = []
    skipped: list[str] = []
    for label, name in enumerate(classes):
        for path in _files(folder / name):
            try:
                pixels.append(_decode(path, spec))
            except (ServingError, OSError) as error:
                skipped.append(f"{path.relative_to(folder.parent)}: {_reason(error)}")
            else:
                files.append(path)
                labels.append(label)
    counts = np.bincount(labels, minlength=len(classes)) if labels else np.zeros(len(classes), np.int64)
    few = [f"{name!r} has {count}" for name, count in zip(classes, counts, strict=True) if count < min_count]
    if few:
        first = f"; of {len(skipped)} skipped the first is {skipped[0]}" if skipped else ""
        raise DatasetError(
            f"{folder}: expected {min_count} or more pictures of each class that can be read, {', '.join(few)}{first}"
        )
    return PictureFolder(classes, tuple(files), np.stack(pixels), np.array(labels, np.int64), tuple(skipped))


def _classes(folder: Path, names: tuple[str, ...] | None) -> tuple[str, ...]:
    if not folder.is_dir():
        raise DatasetError(f"{folder}: {'is a file' if folder.exists() else 'no such folder'}, expected a folder")
    found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    unprintable = [name for name in found if not name.isprintable()]
    if unprintable:
        raise DatasetError(f"{folder}: {unprintable[0]!a} cannot be a class's name, which has to be printable text")
    if names is not None:
        unknown = [name for name in found if name not in names]
        if unknown:
            raise DatasetError(f"{folder}: {unknown[0]!r} is none of the classes to train on: {', '.join(names)}")
        return names
    if len(found) < 2:
        has = f"only {found[0]!r}" if found else "none"
        raise DatasetError(f"{folder}: expected a folder for each of two classes or more, found {has}")
    return tuple(found)


def _files(folder: Path) -> Iterator[Path]:
    """All files below, without hidden ones, which file browsers write."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _decode(path: Path, spec: ImageSpec) -> npt.NDArray[Any]:
    return decode_picture(path.read_bytes(), spec, MAX_PIXELS, "the file")


def _reason(error: ServingError | OSError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
