"""Fits the network of `photos` to any folder of pictures, a folder per class, and exports it ready to serve.

Result: OUTPUT/NAME/1. With DIRECTORY/train and DIRECTORY/validation the second is kept for the last evaluation, else a
seventh of each class in DIRECTORY is. Pictures that cannot be read are skipped and listed.
Cost: grows with the pictures; for 3,000 about two thirds of what `photos` costs, with three folds instead of five.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.data import picture_folder
from training.data.picture_folder import PictureFolder
from training.errors import ConfigError
from training.evaluation.evaluate import stratified_folds
from training.models import photos

NAME = "folder"
SPLIT = 7  # one in so many pictures is kept for the test


@dataclass(frozen=True, kw_only=True)
class Config(photos.Config):
    directory: Path = field(metadata={"positional": True, "help": "the pictures, a folder per class"})
    name: str = field(metadata={"help": "what the model is called under OUTPUT and in URLs"})
    folds: int = field(default=3, metadata={"help": photos.FOLDS_HELP})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name(self.name)
        if not self.directory.is_dir():
            found = "a file" if self.directory.exists() else "no folder that exists"
            raise ConfigError(f"directory is {self.directory}, {found}; expected a folder")


def check_name(name: str) -> None:
    """ConfigError for names that the service does not serve (service/lifecycle/repository.py)."""
    bad = next((character for character in name if not character.isprintable() or character in "/\\:"), None)
    if bad is not None:
        raise ConfigError(f"name is {name!r}, which has {bad!r} in it: no URL can name such a model")
    if not name.strip() or name.startswith("."):
        raise ConfigError(f"name is {name!r}, expected one that does not begin with a dot")


def run(config: Config) -> None:
    pictures, test = read(config)
    photos.train_and_export(config.name, config, pictures, test, card)


def read(config: Config) -> tuple[PictureFolder, PictureFolder]:
    """The pictures to train on, and those for the test."""
    train, validation = config.directory / "train", config.directory / "validation"
    pictures = picture_folder.read(train if train.is_dir() else config.directory, photos.IMAGE, photos.MIN_PICTURES)
    if train.is_dir() and validation.is_dir():
        return pictures, picture_folder.read(validation, photos.IMAGE, 1, pictures.names)
    places, kept = next(stratified_folds(pictures.labels, SPLIT, config.seed))
    return pictures.part(places), pictures.part(kept)


def card(metrics: dict[str, Any], twin: str) -> str:
    skipped = metrics["skipped"]
    section = "## Skipped\n" + "\n".join(f"- {each}" for each in skipped) + "\n" if skipped else ""
    return photos.fill_card("folder", metrics, twin, skipped_count=len(skipped), skipped_section=section)
