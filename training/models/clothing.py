"""A convolutional network tells ten kinds of clothing apart (Fashion-MNIST, 28×28 grey pictures).

Result: test accuracy 0.948; with --network dense, which is version 1, 0.887.
Cost: 77 minutes of fitting on one busy core with --precision mixed_bfloat16 (dense: half a minute). Killed, it goes on
where it was when it is run again.
"""

from contextlib import suppress
from pathlib import Path

import numpy as np

from service.serving_config import ImageSpec
from training.data import datasets
from training.errors import DatasetError
from training.models import photos
from training.models.clothing_config import Config

__all__ = ["NAME", "Config", "run"]

NAME = "clothing"
VALIDATION = 5_000  # the last of the training pictures; the test pictures are looked at once, at the end
SAMPLE = "Sneaker"
IMAGE = ImageSpec(height=28, width=28, mode="L", fit="contain", ground="black")


def run(config: Config) -> None:
    data = datasets.fashion_mnist()

    from PIL import Image

    from training.data import samples
    from training.evaluation import classifier, probes
    from training.export import export, twin
    from training.export.clothing_card import card
    from training.fit import backup, devices, strategy, train
    from training.models import clothing_fit

    worker = strategy.start(config.strategy)
    training = classifier.Examples(data.train_images[:-VALIDATION], data.train_labels[:-VALIDATION])
    validation = classifier.Examples(data.train_images[-VALIDATION:], data.train_labels[-VALIDATION:])
    kept = backup.folder(config.output / NAME, config)
    network, fit = clothing_fit.fit(config, training, validation, worker, kept)
    if not worker.chief:
        print(f"Done        worker {worker.index + 1} of {worker.count}; the first one evaluates and exports")
        return

    fitted = classifier.assemble(network, data.names, training, validation)
    # The test pictures are looked at only now.
    test = classifier.Examples(data.test_images, data.test_labels)
    unlike = probes.pictures(test.inputs, config.seed)
    with suppress(DatasetError):  # where there are photos, how many of them it takes for its own
        unlike["photos of clothing"] = probes.photos(photos.local_folder() / "validation", IMAGE)
    metrics = {
        **classifier.metrics(fitted, test, unlike),
        "training_examples": len(training.labels),
        "network": config.network,
        "precision": devices.chosen(config.precision),
        **train.settings_and_cost(config, fit.seconds, fit.cores * worker.count),
    }

    def pictures(folder: Path) -> None:
        classifier.pictures(fitted, metrics, fit.history, folder)
        # From the validation pictures the one of its class that the model is surest of.
        wanted = data.names.index(SAMPLE)
        certainty = fitted.held_out_answers().probabilities[:, wanted]
        best = np.where(validation.labels == wanted, certainty, -1).argmax()
        Image.fromarray(validation.inputs[best]).save(folder / "sample.png")

    exported = export.export(
        export.Package(
            name=NAME,
            graph=fitted.graph("pixels"),
            twin=twin.Plan(inputs=validation.inputs),
            metrics=metrics,
            reference=fitted.reference("pixels", training.inputs),
            card=card,
            pictures=pictures,
            example={"picture": "sample.png"},
            labels=data.names,
            image=IMAGE,
            samples=lambda assets: samples.pictures(assets, data.test_images, data.test_labels, data.names),
        ),
        config.output,
    )
    backup.Backup(kept, worker).forget()
    sample = exported.version_dir / "assets.extra" / "sample.png"
    exported.say(
        f"{sample} to /v1/models/{NAME}:classify",
        Accuracy=f"{metrics['accuracy']:.4f} on {metrics['test_examples']:,} test pictures",
    )
