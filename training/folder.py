"""Fits the network of `photos` to any folder of pictures, a folder per class, and exports it ready to serve.

Result: OUTPUT/NAME/1. With DIRECTORY/train and DIRECTORY/validation the second is kept for the last evaluation, else a
seventh of each class in DIRECTORY is. Pictures that cannot be read are skipped and listed.
Cost: grows with the pictures; for 3,000 about two thirds of what `photos` costs, with three folds instead of five.
"""

from typing import TYPE_CHECKING

from training.evaluation import folds
from training.models import photos_config

if TYPE_CHECKING:
    from training.data.picture_folder import PictureFolder

NAME = "folder"
Config = photos_config.FolderConfig
SPLIT = 7


def run(config: photos_config.FolderConfig) -> None:
    photos, test = read(config)

    from training.export.photos_card import folder_card
    from training.models import photo_classifier  # only now: what is wrong with the pictures needs no TensorFlow

    photo_classifier.train_and_publish(config.name, config, photos, test, folder_card)


def read(config: photos_config.FolderConfig) -> "tuple[PictureFolder, PictureFolder]":
    """What to train on, and what is kept for the last evaluation."""
    from training.data import picture_folder

    train, validation = config.directory / "train", config.directory / "validation"
    photos = picture_folder.read(
        train if train.is_dir() else config.directory, photos_config.IMAGE, photos_config.LEAST
    )
    if train.is_dir() and validation.is_dir():
        return photos, picture_folder.read(validation, photos_config.IMAGE, 1, photos.names)
    places, kept = next(folds.stratified(photos.labels, SPLIT, config.seed))
    return photos.part(places), photos.part(kept)
