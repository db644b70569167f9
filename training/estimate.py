"""How well a version's accuracy is told without labels: the expected accuracy beside the true one.

Result: a table of test examples as they are, blurred, darkened, noisy and of other labels, with the share of outliers.
Cost: 10 s of processor time for a version of clothing, 40 s for one of photos.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np

from service.drift.accuracy import LEVELS, ExpectedAccuracy, expected_accuracy
from service.drift.reference import InvalidReference, read_reference
from service.inference.context import RequestContext
from service.inference.infer import Inference
from service.inference.version import LoadedVersion
from service.metrics.definitions import Metrics
from service.settings import EngineChoice
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE
from training.config import check_seed
from training.console import quiet
from training.data import basic_motions, clothing_photos, fashion_mnist, picture_folder
from training.errors import ConfigError, RunError
from training.evaluation import alterations
from training.evaluation.classifier import Examples
from training.models import activity, clothing, photos
from training.replay import check_version, load

NAME = "estimate"

# From examples and a seed to altered ones, by what was done to them.
Alter = Callable[[Array, int], Mapping[str, Array]]

COLUMNS = ("model", "version", "test examples", "rows", "true", "expected", "difference", "outliers")
BATCH_BYTES = 8 * 2**20  # of inputs that are run together


@dataclass(frozen=True, kw_only=True)
class Config:
    versions: tuple[str, ...] = field(
        metadata={"positional": True, "help": "MODEL/VERSION of clothing, activity, photos"}
    )
    models: Path = field(default=Path("models"), metadata={"help": "folder of the models"})
    rows: int = field(default=2_000, metadata={"help": "examples that are altered"})
    seed: int = field(default=1, metadata={"help": "which ones, and the noise"})
    engine: str = field(
        default="auto",
        metadata={"help": "what runs the version, as for the service", "choices": get_args(EngineChoice)},
    )

    def __post_init__(self) -> None:
        for version in self.versions:
            check_version("versions", version)
            if version.partition("/")[0] not in TESTS:
                raise ConfigError(f"{version} has no test examples here, expected a version of {', '.join(TESTS)}")
        if self.rows < 1:
            raise ConfigError(f"rows is {self.rows}, expected 1 or more")
        check_seed(self.seed)


def run(config: Config) -> None:
    print(line(COLUMNS))
    print(line(["---" if each in ("model", "test examples") else "--:" for each in COLUMNS]))
    for name in config.versions:
        with quiet():
            loaded = load(config.models, name, config.engine)
        expected = estimate_of(loaded)
        for what, examples in tests(name.partition("/")[0], config.rows, config.seed):
            row = (loaded.model, loaded.version_text, what, *cells(loaded, expected, examples))
            print(line(row), flush=True)


def line(row: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(row)} |"


def estimate_of(loaded: LoadedVersion) -> ExpectedAccuracy:
    try:
        reference = read_reference(loaded.folder.path) if loaded.folder else None
    except InvalidReference as error:
        raise RunError(f"{loaded.model}/{loaded.version}: {error}") from None
    expected = expected_accuracy(reference, loaded.card) if reference else None
    if expected is None:
        raise RunError(f"{loaded.model}/{loaded.version} has neither a calibration nor a low validation_ece")
    return expected


def tests(model: str, rows: int, seed: int) -> Iterator[tuple[str, Examples]]:
    """All test examples, then `rows` of them altered."""
    everything, alter = TESTS[model]()
    yield "untouched", everything
    count = len(everything.labels)
    some = np.sort(np.random.default_rng(seed).permutation(count)[:rows])
    labels = everything.labels[some]
    for what, inputs in alter(everything.inputs[some], seed).items():
        yield what, Examples(inputs, labels)
    others = alterations.with_other_labels(labels, seed)
    yield "of other labels", Examples(everything.inputs[some][others], labels[others])


def cells(loaded: LoadedVersion, expected: ExpectedAccuracy, examples: Examples) -> tuple[str, ...]:
    confidence, right, outliers = predict(loaded, examples)
    found = expected.of((confidence * LEVELS).astype(np.uint8))
    share = f"{np.mean(outliers):.3f}" if len(outliers) else "–"
    return f"{len(right):,}", f"{right.mean():.3f}", f"{found:.3f}", f"{found - right.mean():+.3f}", share


def predict(loaded: LoadedVersion, examples: Examples) -> tuple[Array, Array, Array]:
    """Confidence and whether it is right, [n]; whether it looks like an outlier, [n] or nothing."""
    (name,) = loaded.engine.signatures[DEFAULT_SIGNATURE].inputs
    inference = Inference(Metrics())
    step = max(1, BATCH_BYTES // examples.inputs[:1].astype(np.float32).nbytes)
    best: list[Array] = []
    right: list[Array] = []
    scores: list[float] = []
    for start in range(0, len(examples.labels), step):
        places = slice(start, start + step)
        rows = {name: examples.inputs[places].astype(np.float32)}
        inferred = inference.outputs(loaded, DEFAULT_SIGNATURE, rows, RequestContext())
        probabilities = loaded.label_scores(DEFAULT_SIGNATURE, inferred.outputs)
        if probabilities is None:
            raise RunError(f"{loaded.model}/{loaded.version} gives no score for each of its labels")
        best.append(probabilities.max(axis=1))
        right.append(probabilities.argmax(axis=1) == examples.labels[places])
        scores += inferred.outlier_scores
    return np.concatenate(best), np.concatenate(right), ~(np.array(scores) <= 1)


# Test examples


def _clothing() -> tuple[Examples, Alter]:
    data = fashion_mnist.load()
    return Examples(data.test_images, data.test_labels), alterations.of_pictures


def _activity() -> tuple[Examples, Alter]:
    data = basic_motions.load()
    return Examples(data.test_motions, data.test_labels), alterations.of_recordings


def _photos() -> tuple[Examples, Alter]:
    test = picture_folder.read(clothing_photos.local_folder() / "validation", photos.IMAGE, min_count=1)
    return Examples(test.pixels, test.labels), alterations.of_pictures


TESTS: dict[str, Callable[[], tuple[Examples, Alter]]] = {
    clothing.NAME: _clothing,
    activity.NAME: _activity,
    photos.NAME: _photos,
}
