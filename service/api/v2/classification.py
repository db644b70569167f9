"""The best classes instead of scores (the extension classification)."""

from math import prod

import numpy as np

from service.errors import InvalidRequest
from service.inference.classification import best_first
from service.inference.version import LoadedVersion
from service.tensors.dtypes import Array


def classify(loaded: LoadedVersion, signature_name: str, output: str, scores: Array, count: int) -> Array:
    """Strings "score:index" or "score:index:label", best first: `count` for each row, or as many as there are.

    Raises:
        InvalidRequest: the output has no scores.
    """
    if scores.dtype.kind not in "iuf":
        raise InvalidRequest(f"output {output!r} cannot be classified: it is of the type {scores.dtype.name}")
    labels: tuple[str, ...] = ()
    if loaded.label_output(signature_name) == output:
        both = loaded.label_scores(signature_name, {output: scores})
        if both is not None:
            scores, labels = both, loaded.config.labels
    is_batch = scores.ndim > 1
    rows = scores.reshape(len(scores), prod(scores.shape[1:])) if is_batch else scores.reshape(1, -1)
    best = [text for row in rows for text in _best(row, labels, count)]
    array = np.empty(len(best), object)
    array[:] = best
    return array.reshape(len(rows), min(count, rows.shape[1])) if is_batch else array


def _best(scores: Array, labels: tuple[str, ...], count: int) -> list[bytes]:
    # str, because a float32 in an f-string becomes a Python float, with digits that it does not have.
    return [
        ":".join([str(scores[index]), str(index), *([labels[index]] if labels else [])]).encode()
        for index in best_first(scores)[:count]
    ]
