"""What `clothing` is told. Imported for --help, so without TensorFlow."""

from dataclasses import dataclass, field

from training.config import Config as BaseConfig
from training.fit.cluster import STRATEGIES
from training.fit.devices import PRECISIONS


@dataclass(frozen=True)
class Recipe:
    epochs: int
    learning_rate: float


RECIPES = {"convolution": Recipe(epochs=36, learning_rate=0.1), "dense": Recipe(epochs=12, learning_rate=0.002)}


def _of_each(setting: str, what: str) -> str:
    values = ", ".join(f"{network} {getattr(recipe, setting):g}" for network, recipe in RECIPES.items())
    return f"{what}; 0 stands for the network's own: {values}"


@dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    network: str = field(default="convolution", metadata={"choices": tuple(RECIPES), "help": "what is fitted"})
    epochs: int = field(default=0, metadata={"help": _of_each("epochs", "passes over the training data")})
    batch_size: int = 128
    learning_rate: float = field(default=0.0, metadata={"help": _of_each("learning_rate", "largest step size")})
    precision: str = field(
        default="auto",
        metadata={"choices": PRECISIONS, "help": "what the fit computes in; the model is float32 in any case"},
    )
    strategy: str = field(
        default="one",
        metadata={"choices": STRATEGIES, "help": "who fits: one process, or those that TF_CONFIG names"},
    )

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate"):
            # Frozen for everybody else.
            object.__setattr__(self, name, getattr(self, name) or getattr(RECIPES[self.network], name))
        super().__post_init__()
