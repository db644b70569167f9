"""Model cards: the templates in cards/, filled with a version's metrics.

A template is text for str.format: `{accuracy:.4f}` is that metric with four digits. A file whose name begins with _ is
a part of other templates. A model's card() adds the values that only its template uses.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from service.tensors.signature import Signature, TensorSpec
from training.console import duration
from training.evaluation import evaluate, outliers

FOLDER = Path(__file__).with_name("cards")

Metrics = dict[str, Any]
Values = dict[str, Any]


def fill(template: str, values: Mapping[str, Any]) -> str:
    return (FOLDER / f"{template}.md").read_text("utf-8").format_map(values)


def fill_part(template: str, values: Mapping[str, Any]) -> str:
    """Without the newline that the file ends with."""
    return fill(template, values).removesuffix("\n")


def values(metrics: Metrics, twin: str) -> Values:
    """For every model's template. `twin`: what came of it, as one line."""
    cores = metrics["cores"]
    return metrics | {
        "twin": twin,
        "duration": duration(metrics["seconds"]),
        "counted_cores": f"{cores} core{'' if cores == 1 else 's'}",
        "sizes": _sizes(metrics),
    }


def classifier_values(metrics: Metrics, twin: str, examples: str, *, validation: str = "validation") -> Values:
    """For a classifier's template: `results` and `confidence` are sections, `errors` the test's most frequent ones.

    `examples`: pictures, photos, recordings. `validation`: what the validation's row is called.
    """
    found = values(metrics, twin) | {
        "examples": examples,
        "example": examples.removesuffix("s"),
        "validation": validation,
        "class_rows": _class_rows(metrics),
        "flagged_rows": _flagged_rows(metrics),
        "errors": _errors(metrics, examples),
        "validation_right": evaluate.describe_accuracy(metrics["validation_accuracy"], metrics["validation_examples"]),
        "test_right": evaluate.describe_accuracy(metrics["accuracy"], metrics["test_examples"]),
        "threshold": outliers.describe_threshold(metrics["validation_examples"], examples),
    }
    return found | {"results": fill_part("_results", found), "confidence": fill_part("_confidence", found)}


def imported(
    metrics: Mapping[str, Any],
    signatures: Mapping[str, Signature],
    labels: Sequence[str],
    lines: Mapping[str, str],
    notes: Sequence[str],
) -> str:
    """The card of a version that was trained elsewhere."""
    found = dict(metrics) | {
        "tensors": "\n".join(_tensors(name, signature) for name, signature in signatures.items()),
        "labels_line": f"- **Labels:** {', '.join(labels)}\n" if labels else "",
        "lines": "\n".join(f"- **{title}:** {line}" for title, line in lines.items()),
        "notes": "".join(f"- {note}\n" for note in notes),
    }
    return fill("imported", found)


def wrap(points: str) -> str:
    """Wraps each line, a point of a list, at 120 characters."""
    lines = points.splitlines()
    return "\n".join(textwrap.fill(line, 120, subsequent_indent="  ") for line in lines)


def _class_rows(metrics: Metrics) -> str:
    def share(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    return "\n".join(
        f"| {name} | {share(each['precision'])} | {share(each['recall'])} | {each['support']:,} |"
        for name, each in metrics["classes"].items()
    )


def _flagged_rows(metrics: Metrics) -> str:
    return "\n".join(f"| {name} | {share:.1%} |" for name, share in metrics["outliers_flagged"].items())


def _errors(metrics: Metrics, examples: str) -> str:
    worst = evaluate.confusions(np.array(metrics["confusion_matrix"]), tuple(metrics["classes"]))
    return "\n".join(f"- {truth} called {called}: {count} {examples}" for truth, called, count in worst) or "- None."


def _sizes(metrics: Metrics) -> str:
    twin = metrics["twin_bytes"]
    return f"SavedModel {_bytes(metrics['saved_model_bytes'])}, twin {_bytes(twin) if twin else 'none'}"


def _bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _tensors(name: str, signature: Signature) -> str:
    inputs, outputs = (
        ", ".join(f"`{key}` {_type(spec)}" for key, spec in specs.items())
        for specs in (signature.inputs, signature.outputs)
    )
    return f"- **{name}:** {inputs} → {outputs}"


def _type(spec: TensorSpec) -> str:
    shape = "any shape" if spec.shape is None else str(list(spec.shape))
    return f"{spec.dtype.removeprefix('DT_').lower()} {shape}"
