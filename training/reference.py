"""Take what a version is compared with for drift from captured requests, instead of its training data.

Result: the version's reference.json, written anew; the one before is reference.json.1. A service compares with it once
it loads the version again.
Cost: what the model takes for the captured rows, on its engine.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

import msgspec
import numpy as np

from service.drift.features import features
from service.drift.monitor import fixed_row_shape
from service.drift.reference import REFERENCE_FILE, InvalidReference, read_reference
from service.inference.batching import row_count
from service.inference.context import RequestContext
from service.inference.infer import Inference
from service.inference.shadow import check_types
from service.inference.version import LoadedVersion
from service.lifecycle.repository import Repository
from service.metrics.definitions import Metrics
from service.observability.capture import Captured, decode_line, decode_tensors
from service.serving_config import ASSETS
from service.settings import EngineChoice
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE
from training.console import quiet
from training.data import Floats
from training.data.captured import print_damaged, read_lines
from training.errors import ConfigError, RunError
from training.evaluation.reference import of_features
from training.replay import load

NAME = "reference"
# Of fewer, the deciles are chance.
MIN_ROWS = 100


@dataclass(frozen=True, kw_only=True)
class Config:
    model: str = field(metadata={"positional": True, "help": "name of the model"})
    from_: tuple[Path, ...] = field(
        metadata={"metavar": "FILE", "help": "what the service has captured; FILE.1 holds what is older"}
    )
    version: int = field(default=cast(int, None), metadata={"help": "which version", "default": "the newest"})
    models: Path = field(default=Path("models"), metadata={"help": "folder of the models"})
    engine: str = field(
        default="auto",
        metadata={"help": "what runs the version, as for the service", "choices": get_args(EngineChoice)},
    )

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[^/]+", self.model):
            raise ConfigError(f"model is {self.model!r}, expected a name without /")


@dataclass
class Rows:
    """What is known of the captured rows so far."""

    count: int = 0
    features: list[dict[str, Floats]] = field(default_factory=list)
    probabilities: list[Array] = field(default_factory=list)
    outlier_scores: list[float] = field(default_factory=list)
    by_version: Counter[int] = field(default_factory=Counter)
    damaged: list[str] = field(default_factory=list)
    # Places in the files, with the reason there.
    left_out: list[str] = field(default_factory=list)


def run(config: Config) -> None:
    name = f"{config.model}/{_newest(config) if config.version is None else config.version}"
    with quiet():
        loaded = load(config.models, name, config.engine)
    folder = loaded.folder.path if loaded.folder else config.models / name
    rows, inference = Rows(), Inference(Metrics())
    for where, captured in read_lines(config.from_, decode_line, rows.damaged):
        if captured.model == config.model:
            try:
                add(rows, inference, loaded, captured)
            except Exception as error:  # whatever it is: the next request may fare better
                rows.left_out.append(f"{where}: {error}")
    print_damaged(rows.damaged)
    if rows.left_out:
        print(f"{'Left out':12}{len(rows.left_out):,} requests; the first: {rows.left_out[0]}")
    if rows.count < MIN_ROWS:
        raise RunError(f"{rows.count} rows of {config.model} were captured; expected {MIN_ROWS} or more")
    found = content(loaded, rows, folder)
    if not found["inputs"] and "labels" not in found:
        raise RunError(f"{name} has neither inputs of numbers and a fixed shape nor labels: nothing to compare with")
    write(folder, found)
    versions = ", ".join(f"{count:,} to version {number}" for number, count in sorted(rows.by_version.items()))
    print(f"{'Reference':12}{folder / ASSETS / REFERENCE_FILE}")
    print(f"{'Rows':12}{rows.count:,} ({versions})")
    print(f"{'Next':12}restart the service, or put a new folder in the version's place")


def _newest(config: Config) -> int:
    versions = [version for model, version in Repository(config.models).versions() if model == config.model]
    if not versions:
        raise RunError(f"{config.models} has no model {config.model!r}")
    return max(versions)


def add(rows: Rows, inference: Inference, loaded: LoadedVersion, captured: Captured) -> None:
    """Run a captured request, and take down what drift compares. Raises an exception of any kind."""
    score = loaded.config.outlier_score
    if captured.signature not in (DEFAULT_SIGNATURE, score and score.signature):
        raise ValueError(f"the signature is {captured.signature!r}, which the reference is not about")
    inputs = decode_tensors(captured.inputs)
    check_types(loaded, captured.signature, inputs)
    # Captured outputs have no outlier score, and may be another version's.
    inferred = inference.outputs(loaded, captured.signature, inputs, RequestContext())
    probabilities = loaded.label_scores(captured.signature, inferred.outputs)
    if loaded.label_output(captured.signature) and probabilities is None:
        raise ValueError("the run gave no score for each label")
    specs = loaded.signature(captured.signature).inputs
    shapes = {name: shape for name, spec in specs.items() if (shape := fixed_row_shape(spec)) is not None}
    measured = {name: inputs[name] for name, shape in shapes.items()}
    if any(measured[name].shape[1:] != shape for name, shape in shapes.items()):
        raise ValueError("the inputs have another shape than the signature declares")
    count = row_count(inputs) or 1
    rows.features.append(features(measured))
    if probabilities is not None:
        rows.probabilities.append(probabilities)
    rows.outlier_scores += inferred.outlier_scores
    rows.by_version[captured.version] += count
    rows.count += count


def content(loaded: LoadedVersion, rows: Rows, folder: Path) -> dict[str, Any]:
    """Of reference.json. The calibration is the model's, not its inputs': it stays."""
    found = of_features(
        rows.count,
        rows.features,
        np.concatenate(rows.probabilities) if rows.probabilities else None,
        loaded.config.labels if rows.probabilities else (),
        outlier_scores=np.array(rows.outlier_scores) if rows.outlier_scores else None,
    )
    try:
        before = read_reference(folder)
    except InvalidReference:
        before = None
    if before is not None and before.calibration is not None and rows.probabilities:
        found["calibration"] = msgspec.to_builtins(before.calibration)
    return found


def write(folder: Path, found: dict[str, Any]) -> None:
    """Each name leads to a whole file at any moment."""
    from training.export.version import write_json  # here: `--help` needs no TensorFlow

    path = folder / ASSETS / REFERENCE_FILE
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f".{REFERENCE_FILE}.part")
    write_json(part, found, indent=None)
    if path.exists():
        older = path.with_name(f".{REFERENCE_FILE}.1.part")
        older.write_bytes(path.read_bytes())
        older.replace(path.with_name(f"{REFERENCE_FILE}.1"))
    part.replace(path)
