"""What a version's metrics.json states of its quality, as its model card does."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import orjson

from service.runtime.utf8 import NotUtf8, without_mark
from service.serving_config import ASSETS

METRICS_FILE = "metrics.json"


@dataclass(frozen=True, slots=True)
class Card:
    """`accuracy`: on the test examples. `calibration_error`: the mean difference of confidence and accuracy on held-out
    examples. None where nothing states it."""

    accuracy: float | None = None
    calibration_error: float | None = None


NO_CARD = Card()


def read_card(version_dir: Path) -> Card:
    metrics = read_metrics(version_dir) or {}
    return Card(number(metrics.get("accuracy"), 0, 1), number(metrics.get("validation_ece"), 0, 1))


def read_metrics(version_dir: Path) -> Mapping[str, Any] | None:
    """metrics.json; None where there is none that can be read: a version is served without it."""
    try:
        found = orjson.loads(without_mark((version_dir / ASSETS / METRICS_FILE).read_bytes()))
    except (OSError, orjson.JSONDecodeError, NotUtf8):
        return None
    return found if isinstance(found, dict) else None


def number(value: object, least: float = -inf, most: float = inf) -> float | None:
    """None for anything else that metrics.json may hold."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return value if least <= value <= most else None
