"""Test examples, altered as the world alters inputs. Without TensorFlow."""

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageFilter

from training.data import Array, Integers

# Of Gaussian blur, as shares of a picture's side: 0.7 and 1.5 pixels of 28.
BLURS = {"a little blurred": 0.025, "blurred": 0.054}
DARKER = 0.5
GREY_LEVELS = 20  # deviation of the noise
STEPS = {"a little smoothed": 3, "smoothed": 9}  # of a moving average
NOISE = 0.5  # of a channel's deviation
RARER = 0.25


def of_pictures(pictures: Array, seed: int) -> Mapping[str, Array]:
    """By what was done to them. `pictures`: [n, height, width] or with channels, 0…255."""
    generator = np.random.default_rng(seed)
    whole = pictures.astype(np.uint8)
    return {
        **{name: np.stack([_blurred(each, share) for each in whole]) for name, share in BLURS.items()},
        "darkened": pictures * np.float32(DARKER),
        "noisy": (pictures + generator.normal(0, GREY_LEVELS, pictures.shape)).clip(0, 255).astype(np.float32),
    }


def of_recordings(recordings: Array, seed: int) -> Mapping[str, Array]:
    """The same of [n, steps, channels]."""
    generator = np.random.default_rng(seed)
    deviation = recordings.std(axis=(0, 1))
    return {
        **{name: _smoothed(recordings, steps) for name, steps in STEPS.items()},
        "weaker": recordings * np.float32(DARKER),
        "noisy": (recordings + generator.normal(0, NOISE * deviation, recordings.shape)).astype(np.float32),
    }


def with_other_labels(labels: Integers, seed: int) -> Integers:
    """Places of examples of which every second label comes four times as rarely as before."""
    chances = np.where(labels % 2 == 1, RARER, 1.0)
    return np.flatnonzero(np.random.default_rng(seed).uniform(size=len(labels)) < chances)


def _blurred(picture: Array, share: float) -> Array:
    radius = share * picture.shape[0]
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


def _smoothed(recordings: Array, steps: int) -> Array:
    around = np.pad(recordings, ((0, 0), (steps // 2, steps // 2), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(around, steps, axis=1)
    smoothed: Array = windows.mean(axis=-1).astype(np.float32)
    return smoothed
