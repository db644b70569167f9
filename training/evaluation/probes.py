"""Inputs that a classifier should find unlike its training data, made of held-out ones. Needs numpy and Pillow."""

from pathlib import Path
from typing import Any

import numpy as np

from service.serving_config import ImageSpec
from service.tensors.image import decode_picture

Array = np.ndarray[Any, Any]

MOST = 1_000
PHOTO_PIXELS = 100_000_000


def pictures(examples: Array, seed: int) -> dict[str, Array]:
    """`examples`: [n, height, width] or with channels, 0…255. At most MOST of each kind."""
    examples = examples[:MOST].astype(np.float32)
    generator = np.random.default_rng(seed)
    shape = examples.shape
    shades = np.linspace(0, 255, 52, dtype=np.float32).reshape(-1, *[1] * (len(shape) - 1))
    return {
        "uniform noise": generator.uniform(0, 255, shape).astype(np.float32),
        "Gaussian noise": generator.normal(examples.mean(), examples.std(), shape).clip(0, 255).astype(np.float32),
        "pixels in random order": generator.permuted(examples.reshape(len(examples), -1), axis=1).reshape(shape),
        "inverted": 255 - examples,
        "upside down": examples[:, ::-1],
        "of one shade": np.broadcast_to(shades, (len(shades), *shape[1:])),
    }


def recordings(examples: Array, seed: int) -> dict[str, Array]:
    """`examples`: [n, steps, channels]. At most MOST of each kind."""
    examples = examples[:MOST].astype(np.float32)
    generator = np.random.default_rng(seed)
    mean, deviation = examples.mean(axis=(0, 1)), examples.std(axis=(0, 1))
    order = generator.permuted(np.tile(np.arange(examples.shape[1]), (len(examples), 1)), axis=1)
    return {
        "noise": generator.normal(mean, deviation, examples.shape).astype(np.float32),
        "a constant": np.broadcast_to(examples[:, :1], examples.shape),
        "in other units (× 9.81)": examples * np.float32(9.81),
        "steps in random order": np.take_along_axis(examples, order[..., np.newaxis], axis=1),
    }


def photos(folder: Path, spec: ImageSpec) -> Array:
    """The pictures below `folder` as the service would give them to a model with that `spec`."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return np.stack([decode_picture(file.read_bytes(), spec, PHOTO_PIXELS, file.name) for file in files])
