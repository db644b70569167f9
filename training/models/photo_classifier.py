"""From two folders of photos to an exported classifier: the road that `photos` and `folder` share."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training.data import photo_views, samples
from training.data.picture_folder import PictureFolder, Pictures
from training.evaluation import classifier, folds, outliers, probes
from training.evaluation.classifier import Classifier, Examples
from training.export.export import Package, export
from training.export.twin import LEAST_LABELLED, Plan
from training.fit import transfer
from training.fit.train import settings_and_cost
from training.models.photos_config import IMAGE, Config

PROOF = 1_000  # photos for the twin
PROBES = 100  # of each kind


@dataclass(frozen=True)
class Trained:
    """`history` is the last fit's, its validation the mean of the folds; `fold_accuracies` after the last epoch."""

    classifier: Classifier
    history: dict[str, list[float]]
    fold_accuracies: list[float]
    seconds: float
    cores: int


def train_and_publish(
    name: str,
    config: Config,
    photos: PictureFolder,
    test: PictureFolder,
    card: Callable[[dict[str, Any], str], str],
) -> None:
    skipped = list(dict.fromkeys(photos.skipped + test.skipped))
    for each in skipped:
        print(f"Skipped     {each}")
    trained = train(config, photos)
    # Looked at only now: everything has been found by cross-validation on the other photos.
    fitted = trained.classifier
    examples = Examples(test.pixels, test.labels)
    metrics = {
        **classifier.metrics(fitted, examples, probes.pictures(test.pixels[:PROBES], config.seed)),
        "fold_accuracies": trained.fold_accuracies,
        "training_examples": len(photos.files),
        "skipped": skipped,
        **settings_and_cost(config, trained.seconds, trained.cores),
    }

    def pictures(folder: Path) -> None:
        classifier.pictures(fitted, metrics, trained.history, folder, "photos")
        Image.fromarray(_surest(fitted, test)).save(folder / "sample.jpg", quality=90)

    exported = export(
        Package(
            name=name,
            graph=fitted.graph("pixels"),
            twin=_plan(photos, config.seed),
            metrics=metrics,
            reference=fitted.reference("pixels", photos.pixels),
            card=card,
            pictures=pictures,
            example={"picture": "sample.jpg"},
            labels=photos.names,
            image=IMAGE,
            samples=lambda assets: samples.photos(assets, test.files, test.labels, test.names),
        ),
        config.output,
    )
    sample = exported.version_dir / "assets.extra" / "sample.jpg"
    accuracy, validation = metrics["accuracy"], metrics["validation_accuracy"]
    exported.say(
        f"{sample} to /v1/models/{name}:classify",
        Accuracy=f"{validation:.4f} in cross-validation, {accuracy:.4f} on {len(test.files):,} other photos",
    )


def train(config: Config, photos: PictureFolder) -> Trained:
    """Fits a network for each fold, by which temperature, threshold and the accuracy to expect are found, then the one
    that is served, to all photos."""
    start = time.perf_counter()
    recipe = transfer.Recipe(
        epochs=config.epochs, batch_size=config.batch_size, learning_rate=config.learning_rate, seed=config.seed
    )
    with tempfile.TemporaryDirectory() as folder:
        print(
            f"{len(photos.files):,} photos, and {config.epochs} views of each, through the stages that stay as they are"
        )
        reached = transfer.reach(photos, config.epochs, config.seed, Path(folder) / "reached.npy")
        held_out, histories = [], []
        for number, (places, rest) in enumerate(folds.stratified(photos.labels, config.folds, config.seed), 1):
            print(f"\nFold {number} of {config.folds}: {len(places):,} photos to train, {len(rest):,} held out")
            upper, fitted = transfer.fit(recipe, reached, photos.labels, places, rest)
            distance = outliers.fit(classifier.run(upper, reached[places, 0])[0], photos.labels[places])
            held_out.append(classifier.hold_out(upper, distance, Examples(reached[rest, 0], photos.labels[rest])))
            histories.append(fitted.history)
        print(f"\nThe network to serve: {len(photos.files):,} photos to train")
        upper, fitted = transfer.fit(recipe, reached, photos.labels, np.arange(len(photos.files)))
        distance = outliers.fit(classifier.run(upper, reached[:, 0])[0], photos.labels)
    mean = {name: np.mean([each[name] for each in histories], axis=0).tolist() for name in ("val_loss", "val_accuracy")}
    return Trained(
        classifier.assemble_cross_validated(
            transfer.whole_network(upper), photos.names, distance, classifier.join(held_out)
        ),
        fitted.history | mean,
        [round(each["val_accuracy"][-1], 4) for each in histories],
        time.perf_counter() - start,
        fitted.cores,
    )


def _plan(photos: PictureFolder, seed: int) -> Plan:
    """In float16, as the SavedModel has its weights: int8 would halve the time, but the outlier score does not bear it.

    Proved by training photos, at most 1,000, and by altered views of them where they are too few.
    """
    generator = np.random.default_rng(seed)
    some = photos.part(generator.permutation(len(photos.files))[:PROOF])
    more = -(-LEAST_LABELLED // len(some.files)) - 1
    views: list[Pictures] = [
        photo_views.altered(some.pixels, transfer.SIDE, generator).numpy().astype(np.uint8) for _ in range(more)
    ]
    return Plan(
        inputs=np.concatenate([some.pixels, *views]),
        precision="float16",
        labels=np.tile(some.labels, 1 + more),
    )


def _surest(fitted: Classifier, test: PictureFolder) -> Pictures:
    """The test photo that the model is surest of among those that it calls right, as the model sees it."""
    probabilities = fitted.answers(test.pixels).probabilities
    right = probabilities.argmax(axis=1) == test.labels
    surest: Pictures = test.pixels[np.where(right, probabilities.max(axis=1), -1).argmax()]
    return surest
