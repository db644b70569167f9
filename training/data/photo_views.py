"""Photos altered before they are trained on: another part of them, mirrored, in another light."""

from typing import Any

import numpy as np
import tensorflow as tf

Array = np.ndarray[Any, Any]

SMALLEST_PART = 0.5  # of the photo's area
ASPECT = 4 / 3  # up to so much wider or narrower
BRIGHTNESS, CONTRAST, SATURATION, CAST = 0.3, 0.3, 0.4, 0.1  # up to so much more or less


def altered(photos: Array, side: int, generator: np.random.Generator) -> Any:
    """From [n, height, width, 3], 0…255, to float32 [n, side, side, 3] of the same range."""
    count = len(photos)
    height, width = _parts(count, generator)
    top, left = (generator.uniform(0, 1 - size) for size in (height, width))
    mirrored = generator.random(count) < 0.5
    near, far = np.where(mirrored, left + width, left), np.where(mirrored, left, left + width)
    boxes = np.stack([top, near, top + height, far], axis=1).astype(np.float32)
    parts = tf.image.crop_and_resize(photos.astype(np.float32), boxes, np.arange(count), (side, side))
    return _relit(parts, count, generator)


def _parts(count: int, generator: np.random.Generator) -> tuple[Array, Array]:
    """Heights and widths, as shares of the photo's."""
    area = generator.uniform(SMALLEST_PART, 1, count)
    aspect = np.exp(generator.uniform(-np.log(ASPECT), np.log(ASPECT), count))
    return np.minimum(np.sqrt(area * aspect), 1), np.minimum(np.sqrt(area / aspect), 1)


def _relit(photos: Any, count: int, generator: np.random.Generator) -> Any:
    def factors(strength: float, channels: int = 1) -> Array:
        return generator.uniform(1 - strength, 1 + strength, (count, 1, 1, channels)).astype(np.float32)

    photos = photos * (factors(BRIGHTNESS) * factors(CAST, 3))
    grey = tf.reduce_mean(photos, axis=3, keepdims=True)
    photos = grey + (photos - grey) * factors(SATURATION)
    middle = tf.reduce_mean(grey, axis=(1, 2), keepdims=True)
    return tf.clip_by_value(middle + (photos - middle) * factors(CONTRAST), 0, 255)
