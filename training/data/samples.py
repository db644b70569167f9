"""Samples: a few inputs of the test split, written beside a version for people to try it with."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from service.serving_config import Sample
from training.data import Integers

FOLDER = "samples"
PER_CLASS = 2  # the first ones: none is chosen by what the network predicts
MAX_SIDE = 300  # of a photo: more than the network sees, and twenty load quickly
JPEG_QUALITY = 75


def pictures(assets: Path, images: npt.NDArray[np.uint8], labels: Integers, names: Sequence[str]) -> tuple[Sample, ...]:
    """Writes pictures as PNG. `images`: [n, height, width]."""
    return _write(assets, labels, names, ".png", lambda place, path: Image.fromarray(images[place]).save(path))


def photos(assets: Path, files: Sequence[Path], labels: Integers, names: Sequence[str]) -> tuple[Sample, ...]:
    """Writes smaller copies of photos, upright and without EXIF."""

    def shrink(place: int, path: Path) -> None:
        with Image.open(files[place]) as photo:
            upright = ImageOps.exif_transpose(photo).convert("RGB")
        upright.thumbnail((MAX_SIDE, MAX_SIDE))
        upright.save(path, quality=JPEG_QUALITY)

    return _write(assets, labels, names, ".jpg", shrink)


def recordings(
    assets: Path,
    values: npt.NDArray[np.floating[Any]],
    labels: Integers,
    names: Sequence[str],
    channels: Sequence[str],
) -> tuple[Sample, ...]:
    """Writes recordings as CSV, and one of each class in a row, in which a window can be moved.

    `values`: [n, steps, channels].
    """
    header = ",".join(channels)

    def write(path: Path, steps: npt.NDArray[np.floating[Any]]) -> None:
        np.savetxt(path, steps, fmt="%.4f", delimiter=",", header=header, comments="")

    alone = _write(assets, labels, names, ".csv", lambda place, path: write(path, values[place]))
    joined = assets / FOLDER / "all-in-a-row.csv"
    write(joined, np.concatenate([values[place] for place in _first(labels, len(names), 1)]))
    return (*alone, Sample(file=f"{FOLDER}/{joined.name}"))


def _write(
    assets: Path, labels: Integers, names: Sequence[str], suffix: str, write: Callable[[int, Path], None]
) -> tuple[Sample, ...]:
    folder = assets / FOLDER
    folder.mkdir(exist_ok=True)
    samples = []
    for number, place in enumerate(_first(labels, len(names), PER_CLASS), start=1):
        file = f"{number:02}{suffix}"
        write(place, folder / file)
        samples.append(Sample(file=f"{FOLDER}/{file}", expected=names[labels[place]]))
    return tuple(samples)


def _first(labels: Integers, classes: int, count: int) -> list[int]:
    """The places of the first `count` examples of each class."""
    return [int(place) for label in range(classes) for place in np.flatnonzero(labels == label)[:count]]
