"""A version that gives an outlier score: how bright a picture of 2 x 2 pixels is, where it knows none above 128."""

from collections.abc import Mapping

import msgspec
import numpy as np

from service.inference.batching import BatchLimits
from service.inference.pace import Pace
from service.inference.version import LoadedVersion
from service.serving_config import ImageSpec, OutlierScore, ServingConfig
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE, Signature
from tests.unit.service.fakes import FakeEngine, batcher, independent, quick, signature, tensor, tick_batcher

INPUTS = {"pixels": tensor("DT_FLOAT", -1, 2, 2)}
OUTPUTS = {"probabilities": tensor("DT_FLOAT", -1, 2)}
SIGNATURES: Mapping[str, Signature] = {
    DEFAULT_SIGNATURE: signature(INPUTS, OUTPUTS),
    "scored": signature(INPUTS, OUTPUTS | {"outlier_score": tensor("DT_FLOAT", -1)}),
}
SCORE = OutlierScore(signature="scored", output="outlier_score", threshold=128.0)
CONFIG = ServingConfig(labels=("dark", "bright"), image=ImageSpec(height=2, width=2, mode="L"), outlier_score=SCORE)
WITHOUT_SCORE = msgspec.structs.replace(CONFIG, outlier_score=None)


def without_score(inputs: Mapping[str, Array]) -> dict[str, Array]:
    bright = inputs["pixels"].mean(axis=(1, 2)) / 255
    return {"probabilities": np.stack([1 - bright, bright], axis=1)}


def with_score(inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {"outlier_score": inputs["pixels"].mean(axis=(1, 2))} | without_score(inputs)


def scored_version(config: ServingConfig = CONFIG, *, version: int = 1, batching: str = "none") -> LoadedVersion:
    """`batching`: "none", "threads" or "ticks"."""
    engine = FakeEngine(SIGNATURES, with_score if config.outlier_score else without_score)
    limits = BatchLimits(max_batch_size=8, timeout_seconds=0)
    return LoadedVersion(
        "model",
        version,
        engine,
        config,
        limits=limits,
        batcher=batcher(engine) if batching == "threads" else None,
        tick_batcher=tick_batcher(engine) if batching == "ticks" else None,
        independence=independent(SIGNATURES),
        pace=Pace() if batching == "threads" else quick(),
    )


def pixels(*levels: float) -> dict[str, Array]:
    """Pictures of these levels, as the model takes them."""
    return {"pixels": np.repeat(np.array(levels, np.float32), 4).reshape(-1, 2, 2)}
