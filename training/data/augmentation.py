"""Pictures altered while they are trained on: mirrored, shifted, with a part erased.

Each function takes a batch [n, height, width] and a stateless seed [2] and gives a batch of the same form; one seed
alters the same way, so that a run that was interrupted goes on as if it had not been.
"""

from typing import Any

import tensorflow as tf

Tensor = Any


def mirror(pictures: Tensor, seed: Tensor) -> Tensor:
    """Every other one, left to right."""
    chosen = tf.random.stateless_uniform([tf.shape(pictures)[0], 1, 1], seed) < 0.5
    return tf.where(chosen, tf.reverse(pictures, [2]), pictures)


def shift(pictures: Tensor, seed: Tensor, pixels: int) -> Tensor:
    """By up to so many pixels in each direction; what comes in from outside is 0."""
    count, height, width = tf.shape(pictures)[0], pictures.shape[1], pictures.shape[2]
    wider = tf.pad(pictures, [[0, 0], [pixels, pixels], [pixels, pixels]])
    corners = tf.random.stateless_uniform([count, 2], seed, maxval=2 * pixels + 1, dtype=tf.int32)
    rows = tf.gather(wider, corners[:, :1] + tf.range(height), axis=1, batch_dims=1)
    return tf.gather(rows, corners[:, 1:] + tf.range(width), axis=2, batch_dims=1)


def erase(pictures: Tensor, seed: Tensor, share: float, side: int) -> Tensor:
    """In so many of them, a rectangle of up to `side` pixels each way, filled with one shade from 0 to 255."""
    count, height, width = tf.shape(pictures)[0], pictures.shape[1], pictures.shape[2]
    seeds = tf.random.experimental.stateless_split(seed, 4)
    centre = tf.random.stateless_uniform([count, 2], seeds[0]) * [height, width]
    half = tf.random.stateless_uniform([count, 2], seeds[1], minval=1, maxval=side) / 2
    half *= tf.cast(tf.random.stateless_uniform([count, 1], seeds[2]) < share, tf.float32)
    shade = tf.random.stateless_uniform([count, 1, 1], seeds[3], maxval=255)
    in_rows = tf.abs(tf.range(height, dtype=tf.float32) - centre[:, :1]) < half[:, :1]
    in_columns = tf.abs(tf.range(width, dtype=tf.float32) - centre[:, 1:]) < half[:, 1:]
    return tf.where(in_rows[:, :, tf.newaxis] & in_columns[:, tf.newaxis, :], shade, pictures)
