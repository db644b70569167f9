"""What `photos` and `folder` are told. Imported for --help, so without TensorFlow."""

from dataclasses import dataclass, field
from pathlib import Path

from service.serving_config import ImageSpec
from training.config import Config as BaseConfig
from training.errors import ConfigError

IMAGE = ImageSpec(height=224, width=224, mode="RGB", fit="cover")  # what EfficientNet-Lite0 was made for
LEAST = 10  # pictures of each class
FOLDS_HELP = "networks fitted to find out what to expect of the one that is served"
MOST_FOLDS = 5  # so that every fold holds out at least one picture of each class


@dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    epochs: int = 8
    batch_size: int = 32
    learning_rate: float = 0.0003
    folds: int = field(default=5, metadata={"help": FOLDS_HELP})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.folds <= MOST_FOLDS:
            raise ConfigError(f"folds is {self.folds}, expected 2 to {MOST_FOLDS}")


@dataclass(frozen=True, kw_only=True)
class FolderConfig(Config):
    directory: Path = field(metadata={"positional": True, "help": "the pictures, a folder per class"})
    name: str = field(metadata={"help": "what the model is called under OUTPUT and in URLs"})
    folds: int = field(default=3, metadata={"help": FOLDS_HELP})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name(self.name)
        if not self.directory.is_dir():
            found = "a file" if self.directory.exists() else "no folder that exists"
            raise ConfigError(f"directory is {self.directory}, {found}; expected a folder")


def check_name(name: str) -> None:
    """As the service has it: see service/lifecycle/repository.py."""
    bad = next((character for character in name if not character.isprintable() or character in "/\\:"), None)
    if bad is not None:
        raise ConfigError(f"name is {name!r}, which has {bad!r} in it: no URL can name such a model")
    if not name.strip() or name.startswith("."):
        raise ConfigError(f"name is {name!r}, expected one that does not begin with a dot")
