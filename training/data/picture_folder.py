"""A folder of pictures, one folder a class, as arrays: decoded and resized as the service does it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.errors import InvalidRequest, ServingError
from service.serving_config import ImageSpec
from service.tensors.image import decode_picture
from service.tensors.image_file import format_of, has_heic_decoder
from training.console import Line
from training.data import Integers
from training.errors import DatasetError

Pictures = npt.NDArray[np.uint8]

MAX_SHOWN = 10  # skipped files, or classes with too few pictures
HEIC = "HEIF"  # Pillow's name
NO_DECODER = "HEIC, for which pillow-heif is not installed"
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

    def joined(self, others: Sequence["PictureFolder"]) -> "PictureFolder":
        """These pictures and then those of others, which have the same classes."""
        every = [self, *others]
        return PictureFolder(
            self.names,
            tuple(file for each in every for file in each.files),
            np.concatenate([each.pixels for each in every]),
            np.concatenate([each.labels for each in every]),
            tuple(skipped for each in every for skipped in each.skipped),
        )


def read(folder: Path, spec: ImageSpec, min_count: int, names: tuple[str, ...] | None = None) -> PictureFolder:
    """Reads every picture below `folder`/<class>, in the order of the names.

    `names`: the classes, where they are known already. DatasetError if there are fewer than two classes, one has fewer
    than `min_count` pictures, or there is no picture at all.
    """
    classes = _classes(folder, names)
    files: list[Path] = []
    labels: list[int] = []
    pixels: list[npt.NDArray[Any]] = []
    skipped: list[str] = []
    found = [(label, path) for label, name in enumerate(classes) for path in _files(folder / name)]
    with Line() as line:
        for label, path in line.counted(found, "Pictures"):
            try:
                pixels.append(_decode(path, spec))
            except (ServingError, OSError) as error:
                # The name of a file may be no text, which could not be written.
                name = str(path.relative_to(folder.parent)).encode("utf-8", "backslashreplace").decode()
                skipped.append(f"{name}: {_reason(error)}")
            else:
                files.append(path)
                labels.append(label)
    counts = np.bincount(labels, minlength=len(classes)) if labels else np.zeros(len(classes), np.int64)
    few = [f"{name!r} has {count}" for name, count in zip(classes, counts, strict=True) if count < min_count]
    if few:
        more = f" and {len(few) - MAX_SHOWN} more have fewer" if len(few) > MAX_SHOWN else ""
        others = _others(skipped)
        heic = f"; {sentence}" if (sentence := _heic_sentence(skipped)) else ""
        first = f"; of {len(others)} skipped the first is {others[0]}" if others else ""
        raise DatasetError(
            f"{folder}: expected {min_count} or more pictures of each class that can be read, "
            f"{', '.join(few[:MAX_SHOWN])}{more}{heic}{first}"
        )
    if not pixels:
        none = f"none of the {len(skipped)} files is one: {skipped[0]}" if skipped else "found none"
        raise DatasetError(f"{folder}: expected pictures of the classes to train on, {none}")
    return PictureFolder(classes, tuple(files), np.stack(pixels), np.array(labels, np.int64), tuple(skipped))


def describe_skipped(skipped: Sequence[str]) -> Iterator[str]:
    """The lines to print: what to install for HEIC, and the first of the other files."""
    if sentence := _heic_sentence(skipped):
        yield sentence
    others = _others(skipped)
    yield from others[:MAX_SHOWN]
    if len(others) > MAX_SHOWN:
        yield f"{len(others) - MAX_SHOWN:,} more, which the model card names"


def _others(skipped: Sequence[str]) -> list[str]:
    return [each for each in skipped if not each.endswith(NO_DECODER)]


def _heic_sentence(skipped: Sequence[str]) -> str | None:
    count = len(skipped) - len(_others(skipped))
    if not count:
        return None
    return (
        f"{count:,} HEIC picture{'' if count == 1 else 's'}, which iPhones write; to read them: "
        "pip install --no-deps -r requirements/train-heic.txt"
    )


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
    data = path.read_bytes()
    if format_of(data) == HEIC and not has_heic_decoder():
        raise InvalidRequest(NO_DECODER)
    return decode_picture(data, spec, MAX_PIXELS, "the file")


def _reason(error: ServingError | OSError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
