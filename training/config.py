"""What a run is told. Every model's module subclasses Config with its own defaults; each field is a flag."""

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
        if not 0 <= self.seed < 2**32:  # what numpy takes
            raise ConfigError(f"seed is {self.seed}, expected 0 to {2**32 - 1}")
        if self.output.exists() and not self.output.is_dir():
            raise ConfigError(f"output is {self.output}, which is a file, expected a folder")
