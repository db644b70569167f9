"""Scores beside a version's outputs: outlier scores, and label scores as [rows, labels].

A label output holds a score for each label of serving.json. With two labels, one output of a single number, as a
sigmoid gives it, is the probability of the second label: Keras numbers the classes of a binary classifier that way.
"""

from collections.abc import Mapping, Sequence
from math import isfinite

import msgspec
import numpy as np

from service.serving_config import ServingConfig
from service.tensors.dtypes import Array
from service.tensors.signature import Signature, TensorSpec

OUTLIER_SCORE_HEADER = "Outlier-Score"
# Many proxies take no more than 4 KB of headers.
MAX_HEADER_SCORES = 256
# Up to here Python's loops are quicker than NumPy's calls.
MAX_LOOPED_VALUES = 128


class Inferred(msgspec.Struct, frozen=True):
    """The outputs of one request by name, as its signature has them. `outlier_scores`: one for each row, above 1 for a
    row unlike the training data; empty where the version gives none."""

    outputs: Mapping[str, Array]
    outlier_scores: Sequence[float] = ()


def relative_scores(scores: Array, threshold: float) -> list[float]:
    return [score / threshold for score in scores.ravel().tolist()]


def outlier_score_headers(outlier_scores: Sequence[float]) -> tuple[tuple[str, str], ...]:
    """The header with the scores; none where there are none, or more than fit into one."""
    if not 0 < len(outlier_scores) <= MAX_HEADER_SCORES:
        return ()
    # What is not finite is like nothing in the training data; the metric counts it so, too.
    return (
        (
            OUTLIER_SCORE_HEADER,
            ", ".join([f"{score:.3g}" if isfinite(score) else "Infinity" for score in outlier_scores]),
        ),
    )


_FLOATS = ("DT_FLOAT", "DT_HALF", "DT_DOUBLE", "DT_BFLOAT16")


def label_output(signature: Signature, config: ServingConfig) -> str | None:
    """The only output whose rows are as long as the labels; with two labels else the only probability."""
    if not config.labels:
        return None
    numbers = _number_outputs(signature, config)
    fitting = [name for name, spec in numbers.items() if _row_shape(spec) == (len(config.labels),)]
    if not fitting and len(config.labels) == 2:
        fitting = [name for name, spec in numbers.items() if _is_probability(spec)]
    return fitting[0] if len(fitting) == 1 else None


def label_scores(array: Array, spec: TensorSpec, labels: int) -> Array | None:
    """The label output's array as [rows, labels]; None where a run gave another shape than its spec says, or a number
    that is no probability."""
    if not array.ndim or array.shape[1:] != _row_shape(spec):
        return None
    if array.shape[1:] == (labels,):
        return array
    second = array.reshape(-1, 1)
    if ((second < 0) | (second > 1)).any():
        return None
    return np.concatenate([1 - second, second], axis=1)


def best_labels(scores: Array) -> tuple[Sequence[int], Sequence[float]]:
    """Of each row of [rows, labels], the best label's place and its score: lists for few values, arrays for many."""
    if scores.size <= MAX_LOOPED_VALUES:
        places, confidences = [], []
        for row in scores.tolist():
            confidence = max(row)
            places.append(row.index(confidence))
            confidences.append(confidence)
        return places, confidences
    best = scores.argmax(axis=1)
    return best, scores[np.arange(len(scores)), best]


def label_mismatch(signatures: Mapping[str, Signature], config: ServingConfig) -> str | None:
    """Why the labels cannot belong to the outputs, with both counts; None where they may.

    They may where an output of any signature has as many scores a row, and where that is unknown: an output has a free
    size, or rows that are no list of scores (boxes, sequences, class numbers).
    """
    count = len(config.labels)
    if not count:
        return None
    sizes: dict[str, int] = {}
    for signature in signatures.values():
        for name, spec in _number_outputs(signature, config).items():
            row_shape = _row_shape(spec)
            if row_shape is None or len(row_shape) > 1 or -1 in row_shape:
                return None
            size = row_shape[0] if row_shape else 1
            if size == count or (size == 1 and (count == 2 or spec.dtype not in _FLOATS)):
                return None
            sizes[name] = size
    if not sizes:
        return None
    found = " and ".join(f"the output {name!r} has {_counted(size, 'score')} a row" for name, size in sizes.items())
    return f"serving.json names {_counted(count, 'label')}, and {found}; expected as many labels as scores"


def _is_probability(spec: TensorSpec) -> bool:
    # A vector of a fixed length has no rows.
    return spec.dtype in _FLOATS and (_row_shape(spec) == (1,) or spec.shape == (-1,))


def _number_outputs(signature: Signature, config: ServingConfig) -> dict[str, TensorSpec]:
    score = config.outlier_score.output if config.outlier_score is not None else None
    return {name: spec for name, spec in signature.outputs.items() if spec.dtype != "DT_STRING" and name != score}


def _row_shape(spec: TensorSpec) -> tuple[int, ...] | None:
    """The shape of a row; None where it is free, or the output has no rows."""
    return spec.shape[1:] if spec.shape else None


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
