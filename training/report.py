"""The table of models: what each version is worth, how large it is, and how quick on each engine.

Result: a table in Markdown. All but the times of a prediction stands in the versions' own files.
Cost: 5 s a version, on one core.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from service.engines.base import LoadError
from service.engines.loading import load_engine
from service.lifecycle.repository import Repository
from service.serving_config import ASSETS, TWIN_FILE, ServingConfig, read_serving_config
from service.settings import EngineChoice
from service.tensors.dtypes import DTYPES, Array
from service.tensors.signature import DEFAULT_SIGNATURE, Signature
from training.console import duration, quiet
from training.errors import RunError
from training.evaluation.evaluate import describe_accuracy, microseconds

NAME = "report"
METRICS_FILE = "metrics.json"
ENGINES: tuple[EngineChoice, ...] = ("litert", "tensorflow")
COLUMNS = (
    *("model", "version", "on the test split", "calibration error", "parameters", "SavedModel", "twin"),
    *(f"µs, {engine}" for engine in ENGINES),
    "training",
)
NONE = "–"


@dataclass(frozen=True, kw_only=True)
class Config:
    models: Path = field(default=Path("models"), metadata={"help": "folder of the models"})


def run(config: Config) -> None:
    versions = Repository(config.models).versions()
    if not versions:
        raise RunError(f"{config.models} has no version, expected MODEL/NUMBER/ in it")
    print(line(COLUMNS))
    print(line(["---" if each in ("model", "on the test split") else "--:" for each in COLUMNS]))
    for (model, version), folder in versions.items():
        print(line([model, str(version), *cells(folder)]), flush=True)
    print("\nµs: one row by the engine alone, on one core, the median of many.")


def line(row: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(row)} |"


def cells(folder: Path) -> list[str]:
    """A row without model and version."""
    try:
        config = read_serving_config(folder)
        metrics = read_metrics(folder)
    except ValueError as error:
        raise RunError(f"{folder}: {error}") from None
    twin = folder / ASSETS / TWIN_FILE
    return [
        result(metrics),
        number(metrics.get("ece"), ".4f"),
        number(metrics.get("parameters"), ","),
        size(saved_model_bytes(folder)),
        f"{size(twin.stat().st_size)} {config.twin.precision}" if config.twin and twin.is_file() else NONE,
        *(number(time_of_a_row(folder, config, engine), ",.0f") for engine in ENGINES),
        duration(metrics["seconds"]) if "seconds" in metrics else NONE,
    ]


def read_metrics(folder: Path) -> dict[str, Any]:
    """metrics.json, or nothing if the version has none. ValueError if the file holds something else."""
    path = folder / ASSETS / METRICS_FILE
    try:
        metrics = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{METRICS_FILE} is not JSON ({error})") from None
    if not isinstance(metrics, dict):
        raise ValueError(f"{METRICS_FILE} is not a JSON object")
    return metrics


def result(metrics: dict[str, Any]) -> str:
    if "accuracy" in metrics and "test_examples" in metrics:
        return describe_accuracy(metrics["accuracy"], metrics["test_examples"])
    if "prediction_for_10" in metrics:
        return f"{metrics['prediction_for_10']:.3f} for x = 10"
    return NONE


def number(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)


def size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} KB"


def saved_model_bytes(folder: Path) -> int:
    files = (path for path in folder.rglob("*") if path.is_file() and folder / ASSETS not in path.parents)
    return sum(path.stat().st_size for path in files)


def time_of_a_row(folder: Path, config: ServingConfig, choice: EngineChoice) -> float | None:
    """Microseconds; None if the engine cannot be loaded or no input can be made."""
    with one_core(), quiet():
        try:
            engine = load_engine(folder, config, choice)
        except LoadError:
            return None
        inputs = random_row(engine.signatures.get(DEFAULT_SIGNATURE))
        return microseconds(lambda: engine.run(DEFAULT_SIGNATURE, inputs)) if inputs else None


@contextmanager
def one_core() -> Iterator[None]:
    """Pins this process to one core, and the threads that an engine starts."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def random_row(signature: Signature | None) -> dict[str, Array] | None:
    """Noise: zeros may be quicker than real inputs. None for text and for unknown shapes."""
    random = np.random.default_rng(1)
    row: dict[str, Array] = {}
    for name, spec in signature.inputs.items() if signature else ():
        dtype = DTYPES.get(spec.dtype)
        if spec.shape is None or dtype is None or dtype.kind == "O":
            return None
        shape = [1 if length == -1 else length for length in spec.shape]
        row[name] = random.uniform(0, 100, shape).astype(dtype)
    return row
