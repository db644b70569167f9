"""What every classifier's model card says in the same way, from its metrics.json."""

from typing import Any

import numpy as np

from training.evaluation import evaluate

Metrics = dict[str, Any]


def results(metrics: Metrics, examples: str, *, validation: str = "validation") -> str:
    """Tables per class and per split, and the pictures. `examples`: pictures, recordings."""
    classes = "\n".join(
        f"| {name} | {_share(each['precision'])} | {_share(each['recall'])} | {each['support']:,} |"
        for name, each in metrics["classes"].items()
    )
    splits = "\n".join(
        f"| {name} | {metrics[f'{prefix}accuracy']:.4f} | {metrics[f'{prefix}loss']:.4f} "
        f"| {metrics[f'{prefix}ece_uncalibrated']:.4f} | {metrics[f'{prefix}ece']:.4f} |"
        for name, prefix in ((validation, "validation_"), ("test", ""))
    )
    return f"""\
| | precision | recall | test {examples} |
|---|---|---|---|
{classes}

| | accuracy | loss (cross-entropy) | calibration error before | and after |
|---|---|---|---|---|
{splits}

![Learning curve](learning_curve.png)
![Confusion matrix](confusion_matrix.png)
![Reliability](reliability.png)"""


def confidence(metrics: Metrics, examples: str) -> str:
    """The section on calibration and outliers."""
    flagged = "\n".join(f"| {name} | {share:.1%} |" for name, share in metrics["outliers_flagged"].items())
    return f"""\
## How sure it is, and of what it cannot be

- **Confidence:** the logits are divided by {metrics["temperature"]:.3f} before the softmax (temperature scaling, fitted
  to the validation {examples}). The expected calibration error over 15 bins of confidence is
  {metrics["validation_ece"]:.4f} there and was {metrics["validation_ece_uncalibrated"]:.4f} before; on the test it is
  {metrics["ece"]:.4f} and was {metrics["ece_uncalibrated"]:.4f}.
- **Outlier score** (signature `scored`): how far the features are from those of the nearest class, divided by the
  distance that one in a hundred validation {examples} exceeds. Above 1 the {_one(examples)} does not look like
  anything that the model was trained on, however sure the answer.

| | flagged |
|---|---|
{flagged}"""


def errors(metrics: Metrics, examples: str) -> str:
    """The most frequent errors of the test, one a line."""
    worst = evaluate.confusions(np.array(metrics["confusion_matrix"]), tuple(metrics["classes"]))
    return "\n".join(f"- {truth} called {called}: {count} {examples}" for truth, called, count in worst) or "- None."


def sizes(metrics: Metrics) -> str:
    twin = metrics["twin_bytes"]
    return f"SavedModel {_bytes(metrics['saved_model_bytes'])}, twin {_bytes(twin) if twin else 'none'}"


def _bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _one(examples: str) -> str:
    return examples.removesuffix("s")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
