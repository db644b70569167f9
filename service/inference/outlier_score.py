"""How unlike each row is to what a version was trained on: told beside the outputs, never among them."""

from collections.abc import Mapping, Sequence
from math import isfinite

import msgspec

from service.tensors.json import Array

HEADER = "Outlier-Score"
# Many a proxy takes no more than 4 KB of headers.
MOST_IN_HEADER = 256


class Inferred(msgspec.Struct, frozen=True):
    """What came of one request: the signature's outputs, by name. `outlier_scores`, one for each row, are above 1 for
    what is unlike the training data; empty where the version gives none."""

    outputs: Mapping[str, Array]
    outlier_scores: Sequence[float] = ()


def relative(scores: Array, threshold: float) -> list[float]:
    return [score / threshold for score in scores.ravel().tolist()]


def headers(outlier_scores: Sequence[float]) -> tuple[tuple[str, str], ...]:
    """The header that tells them; none where there is none, or more than fit into one."""
    if not 0 < len(outlier_scores) <= MOST_IN_HEADER:
        return ()
    # What is no finite number is like nothing: so it counts as a metric, too.
    return ((HEADER, ", ".join([f"{score:.3g}" if isfinite(score) else "Infinity" for score in outlier_scores])),)
