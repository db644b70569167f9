"""Imports a model that was trained elsewhere as a version that is ready to serve.

SOURCE is a .keras, .h5 or .tflite file (Keras 3, Keras 2), or the folder of a SavedModel (TensorFlow 1, too).
Result: OUTPUT/NAME/<next version> with a twin where LiteRT can run the model, its proofs, labels, samples, a drift
reference and a model card; and a table of accuracy, difference, size, time and memory by TensorFlow and by the twin.
Cost: half a minute for a small model; a few for a large one.
"""

import json
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from training.config import HELP, check_output
from training.errors import ConfigError
from training.importing import publish

NAME = "import"


@dataclass(frozen=True, kw_only=True)
class Config:
    source: str = field(metadata={"positional": True, "help": "the model: a file, or the folder of a SavedModel"})
    name: str = field(metadata={"help": "what the model is called under OUTPUT and in URLs"})
    labels: str = field(
        default="",
        metadata={"metavar": "FILE|A,B,C", "help": "names of the classes: a file with one a line, or a list"},
    )
    examples: str = field(
        default="",
        metadata={
            "metavar": "FILE|FOLDER",
            "help": "real inputs, with answers where they are known: .npy, .npz, .csv, .json, pictures, or a folder of "
            "pictures per class; without them, inputs are made up",
        },
    )
    scale: str = field(
        default="1", metadata={"metavar": "NUMBER", "help": "what the input is multiplied by first: 1/255 for pixels"}
    )
    softmax: bool = field(default=False, metadata={"help": "make probabilities of a model's logits"})
    image: str = field(
        default="",
        metadata={
            "metavar": "HOW",
            "help": "how a picture becomes the input, if not as its shape says: stretch, contain or cover, "
            "HEIGHTxWIDTH, grey or RGB, black or white (the ground), separated by commas",
        },
    )
    precision: str = field(
        default="float32", metadata={"choices": publish.PRECISIONS, "help": "the twin's number format"}
    )
    signature: str = field(
        default="", metadata={"help": "the SavedModel's entry point that examples, labels and scale are for"}
    )
    twin: bool = field(default=True, metadata={"help": "convert the model for LiteRT, if it gives the same there"})
    code: str = field(
        default="", metadata={"metavar": "FILE", "help": "a Python file that defines the model's own layers; it is run"}
    )
    output: Path = field(default=Path("models"), metadata={"help": HELP["output"]})

    def __post_init__(self) -> None:
        check_output(self.output)
        publish.parse_image(self.image)
        self.factor()

    def factor(self) -> float:
        """The scale as a number. Raises ConfigError."""
        try:
            factor = float(Fraction(self.scale))
        except (ValueError, ZeroDivisionError):
            factor = 0.0
        if factor <= 0:
            raise ConfigError(f"scale is {self.scale!r}, expected a number above 0: 1/255, or 0.5")
        return factor


def run(config: Config) -> None:
    publish.publish(
        config.source,
        config.output,
        name=config.name,
        labels=read_labels(config.labels),
        examples=config.examples or None,
        scale=config.factor(),
        softmax=config.softmax,
        image=config.image,
        precision=config.precision,
        signature=config.signature,
        twin=config.twin,
        code=config.code or None,
    )


def read_labels(text: str) -> tuple[str, ...]:
    """Of a file, a line or an entry of a JSON list each; or separated by commas. Raises ConfigError."""
    if not text:
        return ()
    path = Path(text)
    if path.is_file():
        content = path.read_text("utf-8-sig")
        try:
            listed = json.loads(content)
        except ValueError:
            listed = content.splitlines()
        labels = tuple(str(each).strip() for each in listed if str(each).strip())
    else:
        labels = tuple(each.strip() for each in text.split(","))
    if len(labels) < 2 or "" in labels:
        raise ConfigError(f"labels is {text!r}: no such file, and not a list like cat,dog of two labels or more")
    return labels
