"""A small 1-D convolution tells four activities apart by a smart watch's motion (BasicMotions, 10 s at 10 Hz).

Result: 40 of 40 test recordings right; rules by speed get 17, and 40 once they are tuned on the training recordings.
Cost: a minute and a half on two cores, most of it the cross-validation.
"""

import math
import shlex
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from training.config import Config as BaseConfig
from training.console import Line, load_tensorflow
from training.data import Floats, basic_motions, samples
from training.data.basic_motions import BasicMotions, Labels, Motions
from training.evaluation import classifier, outliers
from training.evaluation.evaluate import describe_accuracy, stratified_folds
from training.export import model_card

if TYPE_CHECKING:
    from training.fit.train import Fit

# Configuration

NAME = "activity"
FOLDS = 5  # 32 recordings to train, 8 to validate
COPIES = 20  # altered copies of each recording
PROOF_SHIFTS = 25


@dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    epochs: int = 12
    batch_size: int = 32
    learning_rate: float = 0.002


@dataclass(frozen=True)
class Candidate:
    """What cross-validation chooses between: filters of the first convolution, and whether to alter copies."""

    filters: int
    altered: bool


CANDIDATES = (Candidate(8, False), Candidate(8, True), Candidate(16, False), Candidate(16, True))

# Rules by speed, which the model is measured against: a recording slower than the number is called so; the first rule
# that fits counts.
Rules = tuple[tuple[float, str], ...]

# The numbers that come to mind, without a look at the data.
RULES_BY_HAND: Rules = ((1, "Standing"), (4, "Walking"), (12, "Running"), (math.inf, "Badminton"))


# Network


def build(filters: int, motions: Motions) -> Any:
    import keras  # here and below: `--help` and the defaults need no TensorFlow

    inputs = keras.Input(motions.shape[1:], name="motion")
    values = keras.layers.Normalization(mean=motions.mean(axis=(0, 1)), variance=motions.var(axis=(0, 1)))(inputs)
    first = keras.layers.Conv1D(filters, 5, activation="relu")(values)
    second = keras.layers.Conv1D(2 * filters, 5, activation="relu")(keras.layers.MaxPooling1D(2)(first))
    means = [keras.layers.GlobalAveragePooling1D()(each) for each in (first, second)]
    logits = keras.layers.Dense(4)(keras.layers.Dropout(0.3)(means[1]))
    return keras.Model(inputs, {"features": means, "logits": logits})


# Fit


def copies(motions: Motions, labels: Labels, *, altered: bool, seed: int) -> tuple[Motions, Labels]:
    """Every recording COPIES times.

    Altered, each begins at another moment (what is cut off there follows at the end), is up to 15 % stronger or weaker,
    and each value has noise of a twentieth of its channel's deviation.
    """
    motions, labels = np.tile(motions, (COPIES, 1, 1)), np.tile(labels, COPIES)
    if not altered:
        return motions, labels  # as many steps of the fit as with altered ones, so that these can be compared
    generator = np.random.default_rng(seed)
    count, steps, _ = motions.shape
    begin = generator.integers(steps, size=(count, 1))
    shifted = motions[np.arange(count)[:, np.newaxis], (begin + np.arange(steps)) % steps]
    strength = generator.uniform(0.85, 1.15, (count, 1, 1))
    noise = generator.normal(0, 0.05 * motions.std(axis=(0, 1)), motions.shape)
    return (strength * shifted + noise).astype(np.float32), labels


@dataclass(frozen=True)
class Fitted:
    """`distance` is that of the altered copies, which are what the network was fitted to."""

    network: Any
    distance: outliers.Distance
    fit: "Fit"


def fit(
    candidate: Candidate, config: Config, motions: Motions, labels: Labels, validation: tuple[Motions, Labels] | None
) -> Fitted:
    """Quiet with validation, which is one of many, else with progress bars."""
    import keras

    from training.fit import train

    train.make_repeatable(config.seed)
    network = build(candidate.filters, motions)
    many = copies(motions, labels, altered=candidate.altered, seed=config.seed)
    steps = config.epochs * -(-len(many[0]) // config.batch_size)
    model = keras.Model(network.inputs, network.output["logits"])
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    fitted = train.fit(
        model,
        train.batches(*many, config.batch_size, shuffle_seed=config.seed),
        epochs=config.epochs,
        validation=validation and train.batches(*validation, len(validation[0])),
        quiet=validation is not None,
    )
    return Fitted(network, outliers.fit(classifier.run(network, many[0])[0], many[1]), fitted)


# Cross-validation


@dataclass(frozen=True)
class CrossValidation:
    """`history`: validation loss and accuracy per epoch, averaged over the folds. `held_out`: the outputs for each
    recording by the network that had not seen it."""

    history: dict[str, list[float]]
    held_out: classifier.HeldOut

    @property
    def accuracy(self) -> float:
        """After the last epoch, as the loss is."""
        return self.history["val_accuracy"][-1]

    @property
    def loss(self) -> float:
        return self.history["val_loss"][-1]


def cross_validate(candidate: Candidate, config: Config, motions: Motions, labels: Labels) -> CrossValidation:
    """The folds are of one size."""
    histories, held_outs = [], []
    for train, held_out in stratified_folds(labels, FOLDS, config.seed):
        validation = motions[held_out], labels[held_out]
        fitted = fit(candidate, config, motions[train], labels[train], validation)
        histories.append(fitted.fit.history)
        held_outs.append(classifier.hold_out(fitted.network, fitted.distance, classifier.Examples(*validation)))
    history = {
        name: np.mean([each[name] for each in histories], axis=0).tolist() for name in ("val_loss", "val_accuracy")
    }
    return CrossValidation(history, classifier.join(held_outs))


def choose(config: Config, motions: Motions, labels: Labels) -> tuple[Candidate, dict[Candidate, CrossValidation]]:
    """The candidate with the highest validation accuracy; of equals the one with the lowest loss."""
    found = {}
    print(f"Cross-validation on the {len(motions)} training recordings, {FOLDS} folds each:")
    with Line() as line:
        for candidate in line.counted(CANDIDATES, "Candidates"):
            found[candidate] = result = cross_validate(candidate, config, motions, labels)
            line.keep(f"  {candidate}: accuracy {result.accuracy:.3f}, loss {result.loss:.3f}", always=True)
    return max(found, key=lambda each: (round(found[each].accuracy, 6), -found[each].loss)), found


# Rules by speed


def speeds(motions: Motions) -> Floats:
    """How strongly each recording moves: the mean length of its acceleration vector. A watch knows no km/h."""
    means: Floats = np.linalg.norm(motions[..., :3], axis=-1).mean(axis=-1)
    return means


def apply_rules(rules: Rules, motions: Motions, names: tuple[str, ...]) -> Labels:
    called = [next(name for limit, name in rules if speed < limit) for speed in speeds(motions)]
    return np.array([names.index(name) for name in called])


def rules_accuracy(rules: Rules, motions: Motions, labels: Labels, names: tuple[str, ...]) -> float:
    return float((apply_rules(rules, motions, names) == labels).mean())


def tune_rules(motions: Motions, labels: Labels, names: tuple[str, ...]) -> Rules:
    """Order and limits from data: halfway between neighbouring classes' mean speeds."""
    found = speeds(motions)
    means = sorted((float(found[labels == label].mean()), name) for label, name in enumerate(names))
    limits = [(slower + faster) / 2 for (slower, _), (faster, _) in pairwise(means)]
    return tuple(zip([*limits, math.inf], (name for _, name in means), strict=True))


def cross_validate_rules(config: Config, data: BasicMotions) -> float:
    """The accuracy of tuned rules on recordings that they were not tuned on, in the same folds as the candidates."""
    motions, labels = data.train_motions, data.train_labels
    found = [
        rules_accuracy(
            tune_rules(motions[train], labels[train], data.names), motions[held_out], labels[held_out], data.names
        )
        for train, held_out in stratified_folds(labels, FOLDS, config.seed)
    ]
    return float(np.mean(found))


# Run


def run(config: Config) -> None:
    data = basic_motions.load()
    load_tensorflow()

    from training.evaluation import plots
    from training.export import twin, version
    from training.export.saved_model import classifier_graph
    from training.fit import train

    start = time.perf_counter()
    chosen, candidates = choose(config, data.train_motions, data.train_labels)
    print(f"Chosen: {chosen}; now fitted to all training recordings")
    fitted = fit(chosen, config, data.train_motions, data.train_labels, None)
    seconds = time.perf_counter() - start
    history = fitted.fit.history | candidates[chosen].history

    # A network fitted to all recordings has none left to be calibrated by: the folds' say how sure it may be.
    held_out = candidates[chosen].held_out
    assembled = classifier.assemble_cross_validated(fitted.network, data.names, fitted.distance, held_out)
    test = classifier.Examples(data.test_motions, data.test_labels)
    proof = proof_inputs(data.train_motions)
    tuned = tune_rules(data.train_motions, data.train_labels, data.names)
    metrics = classifier.metrics(assembled, test, outliers.probe_recordings(proof, config.seed)) | {
        "rules_accuracy": rules_accuracy(RULES_BY_HAND, data.test_motions, data.test_labels, data.names),
        "tuned_rules_accuracy": rules_accuracy(tuned, data.test_motions, data.test_labels, data.names),
        "tuned_rules_validation_accuracy": cross_validate_rules(config, data),
        "tuned_rules": [[name, round(limit, 2) if np.isfinite(limit) else None] for limit, name in tuned],
        "cross_validation": [
            {
                "filters": candidate.filters,
                "altered": candidate.altered,
                "accuracy": round(result.accuracy, 6),
                "loss": round(result.loss, 6),
                "chosen": candidate == chosen,
            }
            for candidate, result in candidates.items()
        ],
        "training_examples": len(data.train_motions),
        **train.settings_and_cost(config, seconds, fitted.fit.cores),
    }

    exported = version.export(
        version.Package(
            name=NAME,
            graph=classifier_graph(assembled, "motion"),
            twin=twin.Plan(inputs=proof),
            metrics=metrics,
            reference=assembled.reference("motion", data.train_motions),
            card=card,
            pictures=lambda folder: plots.classifier_plots(assembled, metrics, history, folder, "recordings"),
            example={"instances": np.round(data.train_motions[-1:].astype(float), 1).tolist()},
            labels=data.names,
            samples=lambda assets: samples.recordings(
                assets, data.test_motions, data.test_labels, data.names, basic_motions.CHANNELS
            ),
            samples_from="test",
        ),
        config.output,
    )
    sample = exported.version_dir / "assets.extra" / samples.FOLDER / "01.csv"
    exported.print_summary(
        f"python -m service predict {NAME} {shlex.quote(str(sample))}",
        Accuracy=f"{describe_accuracy(metrics['accuracy'], metrics['test_examples'])} on the test recordings",
        Outliers=outliers.describe_threshold(metrics["validation_examples"], "recordings"),
        Rules=f"{metrics['rules_accuracy']:.4f} by hand, {metrics['tuned_rules_accuracy']:.4f} tuned",
    )


def proof_inputs(motions: Motions) -> Motions:
    """The training recordings, each begun at PROOF_SHIFTS moments: 40 alone are too few to prove anything."""
    steps = motions.shape[1]
    return np.concatenate([np.roll(motions, shift, axis=1) for shift in range(0, steps, steps // PROOF_SHIFTS)])


def card(metrics: dict[str, Any], twin: str) -> str:
    candidates = metrics["cross_validation"]
    chosen = next(each for each in candidates if each["chosen"])
    altered = "begun at another moment, up to 15 % stronger or weaker, with a little noise"
    values = {
        "filters": chosen["filters"],
        "double_filters": 2 * chosen["filters"],
        "trained_on": f"20 copies of each recording, {altered}"
        if chosen["altered"]
        else "20 equal copies of each recording",
        "tuned_rules": ", ".join(
            f"{name} below {limit:g}" if limit is not None else f"else {name}" for name, limit in metrics["tuned_rules"]
        ),
        "candidates": "\n".join(
            f"| {each['filters']} | {'altered' if each['altered'] else 'as recorded'} | {each['accuracy']:.3f} "
            f"| {each['loss']:.3f} | {'chosen' if each['chosen'] else ''} |"
            for each in candidates
        ),
        "points_per_error": 100 / metrics["test_examples"],
    }
    validation = "validation (each recording by a fold's network)"
    common = model_card.classifier_values(metrics, twin, "recordings", validation=validation)
    return model_card.fill("activity", common | values)
