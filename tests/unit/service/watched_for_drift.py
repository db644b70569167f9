"""A version whose predictions are compared with a reference: the input x, uniform from 0 to 10, and two labels."""

from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from service.drift.monitor import Drift, DriftMonitor
from service.drift.reference import REFERENCE_FILE
from service.inference.version import LoadedVersion
from service.serving_config import ASSETS, ServingConfig
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE, Signature
from tests.unit.service.fakes import FakeEngine, quick, signature, tensor

LABELS = ("low", "high")
UNIFORM = {"edges": [1.0 * edge for edge in range(1, 10)], "shares": [0.1] * 10}
REFERENCE: dict[str, Any] = {
    "rows": 10_000,
    "inputs": {"x": UNIFORM},
    "held_out_rows": 10_000,
    "labels": {"low": 0.5, "high": 0.5},
    "confidence": {"edges": [0.625, 0.75, 0.875], "shares": [0.25] * 4},
}
SIGNATURE = signature({"x": tensor("DT_FLOAT", -1)}, {"scores": tensor("DT_FLOAT", -1, 2)})


def how_high(inputs: Any) -> dict[str, Array]:
    """Low up to 5, high above, the surer the farther away."""
    high = inputs["x"] / 10
    return {"scores": np.stack([1 - high, high], axis=1)}


def version(
    signatures: dict[str, Signature] | None = None, *, number: int = 1, labels: tuple[str, ...] = LABELS
) -> LoadedVersion:
    engine = FakeEngine(signatures or {DEFAULT_SIGNATURE: SIGNATURE}, how_high)
    return LoadedVersion("model", number, engine, ServingConfig(labels=labels), pace=quick())


def write_reference(version_dir: Path, content: Any) -> None:
    """`content`: bytes as they are, anything else as JSON."""
    (version_dir / ASSETS).mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, bytes) else msgspec.json.encode(content)
    (version_dir / ASSETS / REFERENCE_FILE).write_bytes(text)


def watched(version_dir: Path, loaded: LoadedVersion, reference: Any = REFERENCE, **settings: Any) -> Drift:
    write_reference(version_dir, reference)
    # Each request, however many come at once.
    drift = DriftMonitor(**({"rows": 1_000, "requests_per_second": inf} | settings)).watch(loaded, version_dir)
    assert drift is not None
    return drift


def honest(rows: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).uniform(0, 10, rows).astype(np.float32)


def watched_version(version_dir: Path, number: int = 1) -> LoadedVersion:
    loaded = version(number=number)
    return replace(loaded, drift=watched(version_dir, loaded))
