"""Fits the network of `photos` to any folder of pictures, a folder per class, and exports it ready to serve.

Result: the next version in OUTPUT/NAME. With DIRECTORY/train and DIRECTORY/validation the second is kept for the last
evaluation, else a seventh of each class in DIRECTORY is. Of several directories all but the first are for training
alone, and may lack classes of the first. Pictures that cannot be read are skipped and listed.
Cost: grows with the pictures; for 3,000 about two thirds of what `photos` costs, with three folds instead of five.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.lifecycle.repository import Repository
from service.serving_config import ImageSpec, InvalidServingConfig, ServingConfig, read_serving_config
from training.data import picture_folder
from training.data.picture_folder import PictureFolder
from training.errors import ConfigError
from training.evaluation.evaluate import stratified_folds
from training.models import photos

NAME = "folder"
SPLIT = 7  # one in so many pictures is kept for the test


@dataclass(frozen=True, kw_only=True)
class Config(photos.Config):
    directory: tuple[Path, ...] = field(
        metadata={"positional": True, "help": "the pictures, a folder per class; then more pictures of these classes"}
    )
    name: str = field(metadata={"help": "what the model is called under OUTPUT and in URLs"})
    folds: int = field(default=3, metadata={"help": photos.FOLDS_HELP})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name(self.name)
        for each in self.directory:
            if not each.is_dir():
                found = "a file" if each.exists() else "no folder that exists"
                raise ConfigError(f"directory is {each}, {found}; expected a folder")


def check_name(name: str) -> None:
    """ConfigError for names that the service does not serve (service/lifecycle/repository.py)."""
    bad = next((character for character in name if not character.isprintable() or character in "/\\:"), None)
    if bad is not None:
        raise ConfigError(f"name is {name!r}, which has {bad!r} in it: no URL can name such a model")
    if not name.strip() or name.startswith("."):
        raise ConfigError(f"name is {name!r}, expected one that does not begin with a dot")


def run(config: Config) -> None:
    pictures, test = read(config)
    for each in changes(config, pictures.names):
        print(f"{'Changes':12}{each}")
    photos.train_and_export(config.name, config, pictures, test, card)


def read(config: Config) -> tuple[PictureFolder, PictureFolder]:
    """The pictures to train on, and those for the test.

    The test is of the first directory alone, so that the next version is tried on the same pictures as this one, with
    whatever more it is fitted to. Its samples are published, which what clients sent should not be.
    """
    first, *others = config.directory
    train, validation = first / "train", first / "validation"
    pictures = picture_folder.read(train if train.is_dir() else first, photos.IMAGE, photos.MIN_PICTURES)
    if train.is_dir() and validation.is_dir():
        test = picture_folder.read(validation, photos.IMAGE, 1, pictures.names)
    else:
        places, kept = next(stratified_folds(pictures.labels, SPLIT, config.seed))
        pictures, test = pictures.part(places), pictures.part(kept)
    more = [picture_folder.read(each, photos.IMAGE, 0, pictures.names) for each in others]
    return pictures.joined(more), test


def changes(config: Config, names: tuple[str, ...]) -> Iterator[str]:
    """How clients will see that this is another version than the one before, in sentences."""
    versions = Repository(config.output).versions() if config.output.is_dir() else {}
    number = max((number for model, number in versions if model == config.name), default=None)
    if number is None:
        return
    try:
        before = read_serving_config(versions[config.name, number])
    except InvalidServingConfig:
        before = ServingConfig()
    if before.labels and before.labels != names:
        new, gone = sorted({*names} - {*before.labels}), sorted({*before.labels} - {*names})
        parts = [f"{what} {', '.join(some)}" for what, some in (("new", new), ("gone", gone)) if some]
        yield f"the labels of version {number}: {'; '.join(parts) or 'in another order'}"
    if before.image and before.image != photos.IMAGE:
        yield f"version {number} takes pictures of {size(before.image)}, this one of {size(photos.IMAGE)}"


def size(image: ImageSpec) -> str:
    return f"{image.height}×{image.width} ({image.mode})"


def card(metrics: dict[str, Any], twin: str) -> str:
    skipped = metrics["skipped"]
    section = "## Skipped\n" + "\n".join(f"- {each}" for each in skipped) + "\n" if skipped else ""
    return photos.fill_card("folder", metrics, twin, skipped_count=len(skipped), skipped_section=section)
