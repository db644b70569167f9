"""Read and write `assets.extra/serving.json`, a version's configuration beside its SavedModel.

Every part is optional: `{}` means the same as no file. docs/operations/models.md describes the parts.
"""

import hashlib
import shlex
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from service.runtime.utf8 import NotUtf8, without_mark
from service.tensors.signature import Signature

ASSETS = "assets.extra"
CONFIG_FILE = "serving.json"
# The twin in ASSETS, or a model without a SavedModel in the version's folder itself.
TWIN_FILE = "model.tflite"
# Files that may hold a SavedModel's graph; of several, TensorFlow reads the first. The last holds graphs of 2 GB and
# more, in chunks.
GRAPH_FILES = ("saved_model.pb", "saved_model.pbtxt", "saved_model.cpb")
# Each makes a version of its folder.
MODEL_FILES = (*GRAPH_FILES, TWIN_FILE)
# Files that people put where a SavedModel belongs.
OTHER_FORMATS = {
    ".keras": "Keras",
    ".h5": "Keras",
    ".hdf5": "Keras",
    ".tflite": "LiteRT",
    ".onnx": "ONNX",
    ".pt": "PyTorch",
}

Ground = Literal["black", "white"]
Precision = Literal["float32", "float16", "int8", "dynamic"]
Size = Annotated[int, msgspec.Meta(ge=1, le=65_535)]


class InvalidServingConfig(ValueError):
    """serving.json is invalid; the message says where."""


class ImageSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How a picture becomes the model's input.

    `fit`: "contain" pads the picture, "cover" crops it, both keeping the aspect ratio; "stretch" does not keep it.
    `ground`: the ground that the model expects; pictures on the opposite ground are inverted (grey pictures only). None
    leaves pictures as they are.
    """

    height: Size
    width: Size
    mode: Literal["L", "RGB"] = "RGB"
    fit: Literal["contain", "cover", "stretch"] = "stretch"
    ground: Ground | None = None

    def __post_init__(self) -> None:
        if self.ground and self.mode != "L":
            raise ValueError("'ground' goes with the mode 'L' only")


class Twin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The proof that `model.tflite` is equal to the SavedModel.

    `saved_model_sha256`: the `saved_model_digest` that it was converted from. `largest_difference`: over `inputs_tried`
    real inputs, of any output value for float32 (absolute up to 1, relative above), of any probability for a lower
    precision. `tolerance`: the allowed difference for float32; for a lower precision how far the twin's `accuracy` may
    be below the SavedModel's, on the same labelled inputs.
    """

    sha256: str
    saved_model_sha256: str
    inputs_tried: int
    largest_difference: float
    tolerance: float
    precision: Precision = "float32"
    accuracy: float | None = None
    saved_model_accuracy: float | None = None

    def __post_init__(self) -> None:
        if self.precision != "float32" and (self.accuracy is None or self.saved_model_accuracy is None):
            raise ValueError(f"a twin in {self.precision} is proved by 'accuracy' and 'saved_model_accuracy'")


class RowProof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The proof that the rows of these signatures are independent: real rows had the same outputs alone, together, in
    another order, and alone again.

    `largest_difference`: of any output value, absolute up to 1, relative above. `tolerance`: the allowed difference.
    """

    signatures: tuple[str, ...]
    rows_tried: int
    largest_difference: float
    tolerance: float


class OutlierScore(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The signature with the outputs of `serving_default` and one more, `output`: a number for each row, above
    `threshold` for rows unlike the training data."""

    signature: str
    output: str
    threshold: float

    def __post_init__(self) -> None:
        if not (self.threshold > 0 and isfinite(self.threshold)):
            raise ValueError(f"'threshold' is {self.threshold}; expected a finite number above 0")


class Sample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """An input to try: `file`, a picture or a recording (CSV, a step per line) in `assets.extra`, or `instance`, an
    entry of a v1 request's `instances`. `expected`: the right label or output."""

    file: str | None = None
    instance: Any = None
    expected: str | float | None = None

    def __post_init__(self) -> None:
        if (self.file is None) == (self.instance is None):
            raise ValueError("a sample has either 'file' or 'instance'")


class ServingConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The content of serving.json.

    `example`: a valid request, either a v1 body (`{"instances": [10.0]}`) or `{"picture": FILE}` with the name of a
    picture in `assets.extra`. `no_twin`: why there is no twin. `independent_rows`: only its signatures are batched.
    """

    signatures: dict[str, Signature] = {}
    labels: tuple[str, ...] = ()
    image: ImageSpec | None = None
    example: dict[str, Any] | None = None
    samples: tuple[Sample, ...] = ()
    samples_from: Literal["test", "examples"] | None = None
    twin: Twin | None = None
    outlier_score: OutlierScore | None = None
    no_twin: str | None = None
    independent_rows: RowProof | None = None


# Made once: two threads that are the first to decode a type crash the process (msgspec 0.22).
_decoder = msgspec.json.Decoder(ServingConfig)


def graph_file(version_dir: Path) -> Path | None:
    """The file with the SavedModel's graph; None if the folder is no SavedModel."""
    return next((path for name in GRAPH_FILES if (path := version_dir / name).is_file()), None)


def model_file(folder: Path) -> Path | None:
    """The file that makes a version of the folder: a SavedModel's graph, or a LiteRT model without one."""
    return next((path for name in MODEL_FILES if (path := folder / name).is_file()), None)


def misplaced_models(version_dir: Path) -> Iterator[str]:
    """What else a version's folder holds: models in other formats, and models one folder too deep."""
    for child in sorted(version_dir.iterdir()):
        if child.suffix.lower() in OTHER_FORMATS:
            yield child.name
        elif child.name != ASSETS and (file := model_file(child)):
            yield f"{child.name}/{file.name}"


def import_command(place: str, model: str) -> str:
    """How a file of Keras becomes a version. `place`: its path within the models folder."""
    source, name = shlex.quote(f"models/{place}"), shlex.quote(model)
    return f"python -m training import {source} --name {name} makes a version of it"


def saved_model_digest(version_dir: Path) -> str:
    """SHA-256 of graph, variables and assets, which determine the outputs of the SavedModel."""
    digest = hashlib.sha256()
    parts = (file for folder in ("variables", "assets") for file in sorted(version_dir.glob(f"{folder}/**/*")))
    graph = graph_file(version_dir) or version_dir / GRAPH_FILES[0]
    files = [graph, *(file for file in parts if file.is_file())]
    for file in files:
        digest.update(file.relative_to(version_dir).as_posix().encode() + b"\0")
        digest.update(file.read_bytes())
    return digest.hexdigest()


def read_serving_config(version_dir: Path) -> ServingConfig:
    """Raises InvalidServingConfig, which names the invalid part and what was expected."""
    try:
        text = (version_dir / ASSETS / CONFIG_FILE).read_bytes()
    except FileNotFoundError:
        return ServingConfig()
    try:
        return _decoder.decode(without_mark(text))
    except (msgspec.DecodeError, UnicodeDecodeError, NotUtf8) as error:
        raise InvalidServingConfig(f"{ASSETS}/{CONFIG_FILE}: {error}") from None


def write_serving_config(version_dir: Path, config: ServingConfig) -> None:
    path = version_dir / ASSETS / CONFIG_FILE
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n")
