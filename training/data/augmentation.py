"""Pictures altered before they are trained on: grey ones mirrored, shifted, partly erased; photos cropped and relit."""

from typing import Any

import numpy as np
import tensorflow as tf

from training.data import Array

Tensor = Any

# Of a photo's view.
MIN_AREA = 0.5  # of the photo's area
MAX_ASPECT = 4 / 3  # up to so much wider or narrower
BRIGHTNESS, CONTRAST, SATURATION, TINT = 0.3, 0.3, 0.4, 0.1  # up to so much more or less


# Each of these takes a batch [n, height, width] and a stateless seed [2] and gives a batch of the same form; one seed
# alters the same way, so that a run that was interrupted goes on as if it had not been.


def mirror(pictures: Tensor, seed: Tensor) -> Tensor:
    """Mirrors every other picture, left to right."""
    chosen = tf.random.stateless_uniform([tf.shape(pictures)[0], 1, 1], seed) < 0.5
    return tf.where(chosen, tf.reverse(pictures, [2]), pictures)


def shift(pictures: Tensor, seed: Tensor, pixels: int) -> Tensor:
    """Shifts by up to so many pixels in each direction; what comes in from outside is 0."""
    count, height, width = tf.shape(pictures)[0], pictures.shape[1], pictures.shape[2]
    wider = tf.pad(pictures, [[0, 0], [pixels, pixels], [pixels, pixels]])
    corners = tf.random.stateless_uniform([count, 2], seed, maxval=2 * pixels + 1, dtype=tf.int32)
    rows = tf.gather(wider, corners[:, :1] + tf.range(height), axis=1, batch_dims=1)
    return tf.gather(rows, corners[:, 1:] + tf.range(width), axis=2, batch_dims=1)


def erase(pictures: Tensor, seed: Tensor, share: float, side: int) -> Tensor:
    """Fills a rectangle of up to `side` pixels each way, in that share of the pictures, with one shade, 0…255."""
    count, height, width = tf.shape(pictures)[0], pictures.shape[1], pictures.shape[2]
    seeds = tf.random.experimental.stateless_split(seed, 4)
    centre = tf.random.stateless_uniform([count, 2], seeds[0]) * [height, width]
    half = tf.random.stateless_uniform([count, 2], seeds[1], minval=1, maxval=side) / 2
    half *= tf.cast(tf.random.stateless_uniform([count, 1], seeds[2]) < share, tf.float32)
    shade = tf.random.stateless_uniform([count, 1, 1], seeds[3], maxval=255)
    in_rows = tf.abs(tf.range(height, dtype=tf.float32) - centre[:, :1]) < half[:, :1]
    in_columns = tf.abs(tf.range(width, dtype=tf.float32) - centre[:, 1:]) < half[:, 1:]
    return tf.where(in_rows[:, :, tf.newaxis] & in_columns[:, tf.newaxis, :], shade, pictures)


def photo_views(photos: Array, side: int, generator: np.random.Generator) -> Any:
    """A part of each photo, mirrored or not, in another light.

    From [n, height, width, 3], 0…255, to float32 [n, side, side, 3] of the same range.
    """
    count = len(photos)
    height, width = _part_sizes(count, generator)
    top, left = (generator.uniform(0, 1 - size) for size in (height, width))
    mirrored = generator.random(count) < 0.5
    near, far = np.where(mirrored, left + width, left), np.where(mirrored, left, left + width)
    boxes = np.stack([top, near, top + height, far], axis=1).astype(np.float32)
    parts = tf.image.crop_and_resize(photos.astype(np.float32), boxes, np.arange(count), (side, side))
    return _relit(parts, count, generator)


def _part_sizes(count: int, generator: np.random.Generator) -> tuple[Array, Array]:
    """Heights and widths, as shares of the photo's."""
    area = generator.uniform(MIN_AREA, 1, count)
    aspect = np.exp(generator.uniform(-np.log(MAX_ASPECT), np.log(MAX_ASPECT), count))
    return np.minimum(np.sqrt(area * aspect), 1), np.minimum(np.sqrt(area / aspect), 1)


def _relit(photos: Any, count: int, generator: np.random.Generator) -> Any:
    def factors(strength: float, channels: int = 1) -> Array:
        return generator.uniform(1 - strength, 1 + strength, (count, 1, 1, channels)).astype(np.float32)

    photos = photos * (factors(BRIGHTNESS) * factors(TINT, 3))
    grey = tf.reduce_mean(photos, axis=3, keepdims=True)
    photos = grey + (photos - grey) * factors(SATURATION)
    middle = tf.reduce_mean(grey, axis=(1, 2), keepdims=True)
    return tf.clip_by_value(middle + (photos - middle) * factors(CONTRAST), 0, 255)
