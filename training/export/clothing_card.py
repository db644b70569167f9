"""The model card of `clothing`."""

import textwrap
from dataclasses import dataclass
from typing import Any

from training.export import classifier_card

ARCHITECTURES = {
    "convolution": (
        "pixels brought to a mean of 0 and a deviation of 1; 3×3 convolutions with batch normalisation and relu: "
        "24 filters at 28×28, 48 with stride 2, two residual blocks of 48 at 14×14, two of 96 at 7×7 (four more pairs "
        "of convolutions); average over the places, Dense(10)"
    ),
    "dense": "Rescaling(1/255), Flatten, Dense(128, relu), Dense(10)",
}
RECIPES = {
    "convolution": (
        "stochastic gradient descent with Nesterov momentum 0.9, weight decay 0.005 of the rate, targets smoothed by "
        "0.1, rate up to {learning_rate:g} in the first 5 % of the steps, then to 0 along a cosine; pictures mirrored, "
        "shifted by up to 2 pixels, in every other one a rectangle erased"
    ),
    "dense": "Adam, learning rate {learning_rate:g} falling to 0 along a cosine",
}

RUN = "{epochs} epochs of batches of {batch_size}, seed {seed}, computed in {precision}"


@dataclass(frozen=True)
class Run:
    """One that was made on the way to version 2, on one core each beside other work."""

    settings: str
    parameters: int
    epochs: int
    minutes: int
    validation_accuracy: float


RUNS = (
    Run("version 1: dense, Adam", 101_770, 12, 1, 0.8860),
    Run("convolution as above; weight decay 0.0005, no smoothing, nothing erased", 392_386, 6, 14, 0.9322),
    Run("the same with 32, 32 filters at 28×28 and max pooling before 14×14", 386_090, 6, 18, 0.9340),
)


def card(metrics: dict[str, Any], twin: str) -> str:
    network = metrics["network"]
    return f"""# clothing, version {metrics["version"]}

Tells ten kinds of clothing apart on 28×28 grey pictures. Test accuracy **{metrics["accuracy"]:.4f}**.

- **Input** `pixels`: float32 [-1, 28, 28], 0 (black) to 255 (white), the garment bright on black.
  **Output** `probabilities`: float32 [-1, 10], in the order of the table below; the signature `scored` gives
  `outlier_score` float32 [-1] beside it.
- **Intended use:** demonstrations, load tests, and as the well-known start to measure others against. For photos there
  is the model `photos`.
- **Data:** Fashion-MNIST by Zalando Research, MIT licence: catalogue pictures, scaled down, centred and
  inverted. {metrics["training_examples"]:,} pictures to train, the last {metrics["validation_examples"]:,} of
  the training file to validate, {metrics["test_examples"]:,} to test, once, after the last epoch.
{_point(f"**Architecture:** {ARCHITECTURES[network]}; {metrics['parameters']:,} parameters.")}
{_point(f"**Settings:** {RECIPES[network]}; {RUN}.".format(**metrics))}
- **Cost:** {metrics["seconds"] / 60:.1f} minutes on {metrics["cores"]} core{"s" if metrics["cores"] > 1 else ""}.
- **Size:** {classifier_card.sizes(metrics)}.
{_point(f"**Twin:** {twin}; the inputs are the validation pictures.")}

{classifier_card.results(metrics, "pictures")}

{classifier_card.confidence(metrics, "pictures")}

{_runs() if network == "convolution" else ""}
## Known failures and limits
Most frequent errors of the test:

{classifier_card.errors(metrics, "pictures")}

Beyond the test:

- It knows catalogue pictures only: one garment, alone, centred, upright, filling the frame. People, patterned
  grounds, folded or turned garments, photographs in general are outside of what it was trained on; its answers
  there are not to be trusted, however sure they look. The outlier score says so of many, not of all.
- Dark garments on a white ground are outside too; the service inverts such pictures before the model sees them.
- It has no "something else": whatever it is shown, the ten probabilities add up to 1.
"""


def _point(text: str) -> str:
    return textwrap.fill(text, 120, initial_indent="- ", subsequent_indent="  ")


def _runs() -> str:
    rows = "\n".join(
        f"| {run.settings} | {run.parameters:,} | {run.epochs} | {run.minutes} | {run.validation_accuracy:.4f} |"
        for run in RUNS
    )
    return f"""\
## Runs that led here
All were judged by the validation pictures; only the last one, which is this version, has seen the test.

| | parameters | epochs | minutes | validation accuracy |
|---|---|---|---|---|
{rows}
"""
