"""A small 1-D convolution tells four activities apart by a smart watch's motion (BasicMotions, 10 s at 10 Hz).

Result: 40 of 40 test recordings right; rules by speed get 17, and 40 once they are tuned on the training recordings.
Cost: about a minute on two cores, most of it the cross-validation.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training import basic_motions, evaluate, folds, speed_rules
from training.activity_card import card
from training.basic_motions import BasicMotions, Labels, Motions
from training.config import Config as BaseConfig

History = dict[str, list[float]]

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


def build(filters: int, motions: Motions) -> Any:
    import keras  # here and below: `--help` and the defaults need no TensorFlow

    return keras.Sequential(
        [
            keras.Input(motions.shape[1:], name="motion"),
            keras.layers.Normalization(mean=motions.mean(axis=(0, 1)), variance=motions.var(axis=(0, 1))),
            keras.layers.Conv1D(filters, 5, activation="relu"),
            keras.layers.MaxPooling1D(2),
            keras.layers.Conv1D(2 * filters, 5, activation="relu"),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )


def copies(motions: Motions, labels: Labels, *, altered: bool, seed: int) -> tuple[Motions, Labels]:
    """Every recording COPIES times. Altered, each begins at another moment (what is cut off there follows at the
    end), is up to 15 % stronger or weaker, and each value has noise of a twentieth of its channel's deviation.
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


def fit(
    candidate: Candidate, config: Config, motions: Motions, labels: Labels, validation: tuple[Motions, Labels] | None
) -> tuple[Any, Any]:
    """A model and its train.Fit: quiet with validation, which is one of many, else with progress bars."""
    import keras

    from training import train

    train.make_repeatable(config.seed)
    model = build(candidate.filters, motions)
    many = copies(motions, labels, altered=candidate.altered, seed=config.seed)
    steps = config.epochs * -(-len(many[0]) // config.batch_size)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model, train.fit(
        model,
        train.batches(*many, config.batch_size, shuffle_seed=config.seed),
        epochs=config.epochs,
        validation=validation and train.batches(*validation, len(validation[0])),
        quiet=validation is not None,
    )


def cross_validate(candidate: Candidate, config: Config, motions: Motions, labels: Labels) -> History:
    """Validation loss and accuracy per epoch, averaged over the folds, which are of one size."""
    histories = []
    for train, held_out in folds.stratified(labels, FOLDS, config.seed):
        validation = motions[held_out], labels[held_out]
        histories.append(fit(candidate, config, motions[train], labels[train], validation)[1].history)
    return {name: np.mean([each[name] for each in histories], axis=0).tolist() for name in ("val_loss", "val_accuracy")}


def cross_validate_rules(config: Config, data: BasicMotions) -> float:
    """What tuned rules get on recordings that they were not tuned on, in the same folds as the candidates."""
    motions, labels = data.train_motions, data.train_labels
    found = [
        speed_rules.accuracy(
            speed_rules.tune(motions[train], labels[train], data.names), motions[held_out], labels[held_out], data.names
        )
        for train, held_out in folds.stratified(labels, FOLDS, config.seed)
    ]
    return float(np.mean(found))


def choose(config: Config, motions: Motions, labels: Labels) -> tuple[Candidate, dict[Candidate, History]]:
    """The candidate that calls most held-out recordings right after the last epoch; of equals the surest."""
    tried = {}
    print(f"Cross-validation on the {len(motions)} training recordings, {FOLDS} folds each:")
    for candidate in CANDIDATES:
        tried[candidate] = history = cross_validate(candidate, config, motions, labels)
        accuracy, loss = history["val_accuracy"][-1], history["val_loss"][-1]
        print(f"  {candidate}: accuracy {accuracy:.3f}, loss {loss:.3f}", flush=True)
    return max(tried, key=lambda each: (round(tried[each]["val_accuracy"][-1], 6), -tried[each]["val_loss"][-1])), tried


def run(config: Config) -> None:
    data = basic_motions.basic_motions()

    from training import export, plots

    start = time.perf_counter()
    chosen, tried = choose(config, data.train_motions, data.train_labels)
    print(f"Chosen: {chosen}; now fitted to all training recordings")
    model, fitted = fit(chosen, config, data.train_motions, data.train_labels, None)
    seconds = time.perf_counter() - start
    history = fitted.history | tried[chosen]

    probabilities = model.predict(data.test_motions, verbose=0)
    matrix = evaluate.confusion_matrix(data.test_labels, probabilities.argmax(axis=1), len(data.names))
    tuned = speed_rules.tune(data.train_motions, data.train_labels, data.names)

    def rules_accuracy(rules: speed_rules.Rules) -> float:
        return speed_rules.accuracy(rules, data.test_motions, data.test_labels, data.names)

    metrics = {
        "accuracy": evaluate.accuracy(matrix),
        "loss": round(evaluate.cross_entropy(data.test_labels, probabilities), 6),
        "validation_accuracy": round(history["val_accuracy"][-1], 6),
        "validation_loss": round(history["val_loss"][-1], 6),
        "rules_accuracy": rules_accuracy(speed_rules.BY_HAND),
        "tuned_rules_accuracy": rules_accuracy(tuned),
        "tuned_rules_validation_accuracy": cross_validate_rules(config, data),
        "tuned_rules": [[name, round(limit, 2) if np.isfinite(limit) else None] for limit, name in tuned],
        "cross_validation": [
            {
                "filters": each.filters,
                "altered": each.altered,
                "accuracy": round(found["val_accuracy"][-1], 6),
                "loss": round(found["val_loss"][-1], 6),
                "chosen": each == chosen,
            }
            for each, found in tried.items()
        ],
        "parameters": model.count_params(),
        "training_examples": len(data.train_motions),
        "validation_examples": len(data.train_motions),  # each is held out once
        "test_examples": len(data.test_motions),
        "seed": config.seed,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "seconds": round(seconds, 1),
        "cores": fitted.cores,
        "classes": evaluate.per_class(matrix, data.names),
        "confusion_matrix": matrix.tolist(),
    }
    worst = evaluate.confusions(matrix, data.names)

    def pictures(folder: Path) -> None:
        plots.learning_curve(history, folder / "learning_curve.png")
        plots.confusion(matrix, data.names, folder / "confusion_matrix.png", "recordings")

    exported = export.export(
        export.Package(
            name=NAME,
            model=model,
            input_name="motion",
            output_name="probabilities",
            proof_inputs=proof_inputs(data.train_motions),
            metrics=metrics,
            card=lambda version, twin: card(metrics, worst, version, twin),
            pictures=pictures,
            example={"instances": np.round(data.train_motions[-1:].astype(float), 1).tolist()},
            labels=data.names,
        ),
        config.output,
    )
    print(f"\nExported    {exported.version_dir}")
    print(f"Accuracy    {metrics['accuracy']:.4f} on {metrics['test_examples']} test recordings")
    print(f"Rules       {metrics['rules_accuracy']:.4f} by hand, {metrics['tuned_rules_accuracy']:.4f} tuned")
    print(f"Twin        {exported.twin}")
    print(f"Next        python -m service --models {config.output}")
    print(f"            and post the example in its serving.json to /v1/models/{NAME}:classify")


def proof_inputs(motions: Motions) -> Motions:
    """The training recordings, each begun at PROOF_SHIFTS moments: 40 alone are too few to prove anything."""
    steps = motions.shape[1]
    return np.concatenate([np.roll(motions, shift, axis=1) for shift in range(0, steps, steps // PROOF_SHIFTS)])
