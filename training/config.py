"""A run's settings: a frozen dataclass, each field a flag of `python -m training NAME`.

A field's metadata may hold `help` (else HELP has it), `choices` (the strings it may be), `default` (what help says of
it), `metavar`, `positional` (True: an argument without a flag) and `bare` (True: the flag may stand without a value,
which means the default). A field without a default is required; a bool becomes --field and --no-field; a tuple takes
several values.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from training.errors import ConfigError

HELP = {
    "epochs": "passes over the training data",
    "batch_size": "examples per step",
    "learning_rate": "step size that the optimizer starts with",
    "seed": "the same seed gives the same model",
    "output": "folder of the models; the version goes to OUTPUT/MODEL/NUMBER",
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of every fit. A model's Config subclasses it with its own defaults; a command's need not."""

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int = 1
    output: Path = Path("models")

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"{name} is {value}, expected 1 or more")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ConfigError(f"learning_rate is {self.learning_rate}, expected a number above 0")
        check_seed(self.seed)
        check_output(self.output)


def check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:  # what numpy takes
        raise ConfigError(f"seed is {seed}, expected 0 to {2**32 - 1}")


def check_output(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output is {output}, which is a file, expected a folder")
