"""clothing-dataset-small: photos of ten kinds of clothing, checked to be complete."""

import os
from pathlib import Path

from service.serving_config import ImageSpec
from training.data import picture_folder
from training.data.picture_folder import PictureFolder
from training.errors import DatasetError

COUNTS = {"train": 3_068, "validation": 341}
HOW_TO_GET = (
    "To get the photos: git clone https://github.com/alexeygrigorev/clothing-dataset-small, "
    "and set CLOTHING_PHOTOS_DIR to that folder."
)


def local_folder() -> Path:
    """The folder with both parts. DatasetError if it is not set or a part is missing."""
    named = os.environ.get("CLOTHING_PHOTOS_DIR")
    if not named:
        raise DatasetError(f"The clothing photos are not on this machine: CLOTHING_PHOTOS_DIR is not set. {HOW_TO_GET}")
    for part in COUNTS:
        if not Path(named, part).is_dir():
            raise DatasetError(f"{Path(named, part)}: no such folder. {HOW_TO_GET}")
    return Path(named)


def load(spec: ImageSpec, min_count: int) -> tuple[PictureFolder, PictureFolder]:
    """Loads train/ and validation/; `min_count`: pictures that each class must have."""
    folder = local_folder()
    train = picture_folder.read(folder / "train", spec, min_count)
    validation = picture_folder.read(folder / "validation", spec, min_count, train.names)
    for part, found in (("train", train), ("validation", validation)):
        if len(found.files) != COUNTS[part]:
            what = "; ".join([f"{len(found.files)} photos that can be read", *found.skipped])
            raise DatasetError(f"{folder / part}: {what}; expected {COUNTS[part]}. {HOW_TO_GET}")
    return train, validation
