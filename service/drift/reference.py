"""`assets.extra/reference.json`: the distribution of training inputs and predictions. docs/training.md describes it."""

from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Annotated

import msgspec

from service.runtime.utf8 import NotUtf8, without_mark
from service.serving_config import ASSETS

REFERENCE_FILE = "reference.json"

# Bins are stored as bytes, and there is one more for NaN.
MAX_EDGES = 254
# The sum of rounded shares may differ from 1 by this much.
ROUNDING = 0.01

# Outlier scores are relative: a row above 1 is an outlier.
OUTLIER_EDGE = 1.0

Rows = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class InvalidReference(ValueError):
    """reference.json is not what it should be; the message says where."""


class Binned(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A feature's bins. `shares`: of values up to the first of the `edges`, up to the second ..., above the last."""

    edges: Annotated[tuple[float, ...], msgspec.Meta(max_length=MAX_EDGES)]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if not all(map(isfinite, self.edges)) or any(left >= right for left, right in pairwise(self.edges)):
            raise ValueError("expected 'edges' that are finite and increase")
        if len(self.shares) != len(self.edges) + 1:
            raise ValueError(f"{len(self.edges)} edges and {len(self.shares)} shares; expected a share more than edges")
        _check_shares(self.shares)


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How often predictions of a confidence are right: the line through these points, level beyond them."""

    confidence: tuple[Share, ...]
    accuracy: tuple[Share, ...]

    def __post_init__(self) -> None:
        if not self.confidence or any(left >= right for left, right in pairwise(self.confidence)):
            raise ValueError("expected a 'confidence' that increases from point to point")
        if len(self.accuracy) != len(self.confidence):
            raise ValueError(f"{len(self.confidence)} of 'confidence' and {len(self.accuracy)} of 'accuracy'")


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`rows`: number of training inputs. A classifier also has `labels` (each label's share of the predictions) and
    `confidence`, of `held_out_rows` inputs that it was not fitted to, and may have their `outlier_score` and
    `calibration`."""

    rows: Rows
    inputs: dict[str, Binned]
    held_out_rows: Rows | None = None
    labels: dict[str, float] | None = None
    confidence: Binned | None = None
    outlier_score: Binned | None = None
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        parts = (self.held_out_rows, self.labels, self.confidence)
        if None in parts and parts != (None, None, None):
            raise ValueError("'held_out_rows', 'labels' and 'confidence' go together")
        if self.labels is None and (self.outlier_score, self.calibration) != (None, None):
            raise ValueError("'outlier_score' and 'calibration' need 'labels'")
        if self.labels is not None:
            _check_shares(tuple(self.labels.values()))
        if self.outlier_score is not None and OUTLIER_EDGE not in self.outlier_score.edges:
            raise ValueError(f"'outlier_score' has no edge at {OUTLIER_EDGE:g}, above which a row is an outlier")


# Made once: two threads that are the first to decode a type crash the process (msgspec 0.22).
_decoder = msgspec.json.Decoder(Reference)


def read_reference(version_dir: Path) -> Reference | None:
    """None if the version has none. Raises InvalidReference, which names the invalid part and what was expected."""
    try:
        text = (version_dir / ASSETS / REFERENCE_FILE).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidReference(str(error.strerror)) from None
    try:
        return _decoder.decode(without_mark(text))
    except (msgspec.DecodeError, UnicodeDecodeError, NotUtf8) as error:
        raise InvalidReference(str(error)) from None


def _check_shares(shares: tuple[float, ...]) -> None:
    if any(not share >= 0 for share in shares) or not abs(sum(shares) - 1) <= ROUNDING:
        raise ValueError(f"the shares add up to {sum(shares):.6g}; expected numbers of at least 0 that add up to 1")
