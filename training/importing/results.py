"""What an imported model gives for its examples: how many are right, and what its owner should know."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from service.engines.base import Engine
from service.errors import ServingError
from service.inference.scores import label_output, label_scores
from service.serving_config import ImageSpec, ServingConfig
from service.tensors.dtypes import Array
from service.tensors.image import takes_pictures
from service.tensors.signature import Signature
from training.data import Floats
from training.errors import RunError
from training.importing.examples import Examples, takes_any_rows
from training.importing.source import Source

BATCH_SIZE = 32
MIN_SIDE = 16  # of a square that may be a picture


@dataclass(frozen=True, kw_only=True)
class Result:
    """`probabilities` [n, labels]: None where the model has no labels, or gives none. `scores`: of the classes, as the
    model gives them. `scaled_accuracy`: with pixels from 0 to 1, where that is better."""

    metrics: dict[str, Any]
    text: str
    scores: Array | None
    probabilities: Floats | None
    scaled_accuracy: float | None = None


def scores_output(signature: Signature, config: ServingConfig) -> str | None:
    """The output with a score for each class. RunError where there are labels and no output for them."""
    if config.labels:
        found = label_output(signature, config)
        if found is None:
            shapes = ", ".join(f"{name} {list(spec.shape or ())}" for name, spec in signature.outputs.items())
            raise RunError(
                f"{len(config.labels)} labels ({', '.join(config.labels[:4])} ...) go with no output: {shapes}; "
                f"expected one of the shape [-1, {len(config.labels)}]"
            )
        return found
    fitting = [
        name
        for name, spec in signature.outputs.items()
        if spec.dtype != "DT_STRING" and spec.shape and len(spec.shape) == 2 and spec.shape[1] > 1
    ]
    return fitting[0] if len(fitting) == 1 and len(signature.outputs) == 1 else None


def run(engine: Engine, name: str, signature: Signature, examples: Examples) -> dict[str, Array]:
    """The outputs for all examples. RunError where the model refuses them."""
    size = BATCH_SIZE if takes_any_rows(signature) else 1
    parts = []
    try:
        for start in range(0, examples.count, size):
            parts.append(engine.run(name, {key: each[start : start + size] for key, each in examples.inputs.items()}))
    except ServingError as error:
        raise RunError(f"examples {start} to {start + size - 1}: {error}") from None
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def measure(
    engine: Engine,
    name: str,
    signature: Signature,
    scores: str | None,
    examples: Examples,
    labels: tuple[str, ...],
) -> Result:
    def classes_of(outputs: dict[str, Array]) -> Array | None:
        """[n, classes], also of a single probability with two labels."""
        if scores is None or not labels:
            return outputs[scores] if scores else None
        return label_scores(outputs[scores], signature.outputs[scores], len(labels))

    outputs = run(engine, name, signature, examples)
    classes = classes_of(outputs)
    answers, count = examples.answers, examples.count
    scaled_accuracy = None
    metrics: dict[str, Any] = {"test_examples": count}
    text = ""
    if answers is not None and len(answers) == count:
        if classes is not None:
            right = int((classes.argmax(axis=1) == answers).sum())
            metrics["accuracy"] = right / count
            if examples.files:
                scaled = {key: (array / 255).astype(array.dtype) for key, array in examples.inputs.items()}
                others = classes_of(run(engine, name, signature, replace(examples, inputs=scaled)))
                scaled_right = 0.0 if others is None else float((others.argmax(axis=1) == answers).mean())
                scaled_accuracy = scaled_right if scaled_right > right / count else None
            text = f"{right:,} of {count:,} examples right ({right / count:.4f})"
        elif len(outputs) == 1 and (numbers := next(iter(outputs.values()))).size == count:
            error = float(np.abs(numbers.reshape(-1) - answers).mean())
            metrics["mean_absolute_error"] = error
            text = f"mean absolute error {error:.4g} on {count:,} examples"
    return Result(
        metrics=metrics,
        text=text,
        scores=outputs[scores] if scores else None,
        probabilities=classes if labels else None,
        scaled_accuracy=scaled_accuracy,
    )


def notes(
    source: Source,
    signature: Signature,
    image: ImageSpec | None,
    labels: tuple[str, ...],
    examples: Examples | None,
    result: Result | None,
) -> list[str]:
    """What the owner should know: scores that are no probabilities, pixels that nothing scales."""
    found = []
    if result is not None and result.scores is not None and (labels or "accuracy" in result.metrics):
        found += _looks_like_logits(result.scores)
    found += _may_take_pictures(signature, image)
    if result is not None and result.scaled_accuracy is not None and not source.rescales:
        found.append(
            f"with pixels from 0 to 1 it calls {result.scaled_accuracy:.4f} of the examples right, with 0 to 255 "
            f"{result.metrics['accuracy']:.4f}: pass --scale 1/255 (scale=1/255)"
        )
    if examples is not None and takes_pictures(signature, image) and not examples.files and not source.rescales:
        (pixels,) = examples.inputs.values()
        if pixels.dtype.kind == "f" and pixels.max() <= 1:
            found.append(
                f"its examples lie between {pixels.min():.3g} and {pixels.max():.3g}, and pictures come as 0 to 255: "
                "pass --scale 1/255 (scale=1/255) if pixels were divided by 255 before training"
            )
    return found


def _may_take_pictures(signature: Signature, image: ImageSpec | None) -> list[str]:
    shapes = [spec.shape for spec in signature.inputs.values()]
    if image is not None or len(shapes) != 1 or shapes[0] is None or len(shapes[0]) != 3:
        return []
    _, height, width = shapes[0]
    if height != width or height < MIN_SIDE:
        return []
    return [f"its input is {height}x{width}: if those are pictures, pass --image {height}x{width},grey"]


def _looks_like_logits(scores: Array) -> list[str]:
    if scores.dtype.kind != "f":
        return []
    low, high = float(scores.min()), float(scores.max())
    is_within = low >= 0 and high <= 1 + 1e-4
    if is_within:
        return []
    return [
        f"its scores lie between {low:.3g} and {high:.3g}, so they are no probabilities but most likely logits: pass "
        "--softmax (softmax=True), or clients see them as they are"
    ]


def describe_image(image: ImageSpec | None, source: Source) -> str:
    """How a picture becomes the input, and who scales its pixels."""
    if image is None:
        return ""
    fit = {"stretch": "stretched", "cover": "cut", "contain": "padded"}[image.fit]
    colours = "grey" if image.mode == "L" else "RGB"
    ground = f" on {image.ground}" if image.ground else ""
    scaling = {
        True: "scales them itself",
        False: "has no layer that scales them (Rescaling, Normalization)",
        None: "may scale them or not: its layers are not known",
    }[source.rescales]
    return f"{fit} to {image.height}x{image.width}, {colours}{ground}; pixels are 0 to 255, and the graph {scaling}"
