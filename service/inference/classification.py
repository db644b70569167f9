"""Classification and regression: scores as ranked labels, and a number for each example."""

from collections.abc import Mapping

import numpy as np

from service.errors import InvalidRequest
from service.inference.version import LoadedVersion
from service.tensors.dtypes import Array, shape_text
from service.tensors.signature import Signature

Ranking = list[list[object]]


def classify(
    loaded: LoadedVersion, signature_name: str, outputs: Mapping[str, Array], top_k: int | None
) -> list[Ranking]:
    """[[label, score], ...] for each row: best first where serving.json names labels, else as the model gives them.

    Raises:
        InvalidRequest: the model has neither labels nor the outputs "classes" and "scores", or gives no row.
    """
    if loaded.label_output(signature_name):
        labels = loaded.config.labels
        rankings = [_ranked(labels, row)[:top_k] for row in label_scores(loaded, signature_name, outputs)]
    elif outputs and outputs.keys() <= {"classes", "scores"}:
        rankings = [row[:top_k] for row in _as_given(outputs)]
    else:
        raise InvalidRequest(
            f"{loaded.model} cannot classify: its serving.json names no labels for "
            f"{_outputs(loaded.signature(signature_name))}, and the outputs are not 'classes' and 'scores'; ask with "
            ":predict"
        )
    if not rankings:
        raise InvalidRequest(f"Cannot convert empty ClassificationResults to JSON: {loaded.model} gave no row")
    return rankings


def label_scores(loaded: LoadedVersion, signature_name: str, outputs: Mapping[str, Array]) -> Array:
    """The scores, [rows, labels], of a version that has a label output.

    Raises:
        InvalidRequest: the model gives something else for this input.
    """
    scores = loaded.label_scores(signature_name, outputs)
    if scores is not None:
        return scores
    output, count = loaded.label_output(signature_name), len(loaded.config.labels)
    array = outputs[output or ""]
    expected = f"[-1, {count}], a score for each label"
    if count == 2:
        expected += f", or a probability of {loaded.config.labels[1]!r} from 0 to 1 (end the model in a sigmoid)"
    raise InvalidRequest(
        f"{loaded.model} gave {output!r} of the shape {shape_text(array.shape)} for this input; expected {expected}; "
        "ask with :predict"
    )


def regress(loaded: LoadedVersion, signature_name: str, outputs: Mapping[str, Array]) -> Array:
    """One number for each row, from the only output, which is [batch] or [batch, 1].

    Raises:
        InvalidRequest: the model gives something else, or no row.
    """
    values = next(iter(outputs.values())) if len(outputs) == 1 else None
    if values is None or values.dtype.kind not in "iuf" or values.shape[1:] not in ((), (1,)) or not values.ndim:
        raise InvalidRequest(
            f"{loaded.model} cannot regress: expected one output with one number per row, it has "
            f"{_outputs(loaded.signature(signature_name))}; ask with :predict"
        )
    if not len(values):
        raise InvalidRequest(f"Cannot convert empty RegressionResults to JSON: {loaded.model} gave no row")
    return np.ascontiguousarray(values.reshape(-1))


def best_first(scores: Array) -> Array:
    """Indices of the scores, [classes], best first. NaN comes last: it must not hide the others."""
    # As floats: unsigned scores have no negative.
    return np.argsort(-np.nan_to_num(scores.astype(np.float64), nan=-np.inf), kind="stable")


def _ranked(labels: tuple[str, ...], scores: Array) -> Ranking:
    return [[labels[index], scores[index]] for index in best_first(scores)]


def _as_given(outputs: Mapping[str, Array]) -> list[Ranking]:
    """TensorFlow Serving's form: where one of the two outputs is missing, "" and 0 stand for it."""
    some = next(iter(outputs.values()))
    if any(array.ndim != 2 or array.shape != some.shape for array in outputs.values()):
        raise InvalidRequest(
            "expected 'classes' and 'scores' of one shape [batch, classes], the model gave "
            + " and ".join(f"{name} {shape_text(array.shape)}" for name, array in outputs.items())
        )
    classes = outputs.get("classes", np.full(some.shape, b"", object))
    scores = outputs.get("scores", np.zeros(some.shape, np.float32))
    return [
        [[_text(label), score] for label, score in zip(row_classes, row_scores, strict=True)]
        for row_classes, row_scores in zip(classes, scores, strict=True)
    ]


def _text(label: object) -> str:
    return label.decode(errors="replace") if isinstance(label, bytes) else str(label)


def _outputs(signature: Signature) -> str:
    return ", ".join(
        f"{name!r} {'of any shape' if spec.shape is None else shape_text(spec.shape)}"
        for name, spec in signature.outputs.items()
    )
