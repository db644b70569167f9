import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")

import tensorflow as tf

from training.data import augmentation

PICTURES = np.random.default_rng(1).uniform(1, 255, (64, 28, 28)).astype(np.float32)


def test_one_seed_alters_in_one_way() -> None:
    pictures = tf.constant(PICTURES)
    for alter in (
        augmentation.mirror,
        lambda pictures, seed: augmentation.shift(pictures, seed, 2),
        lambda pictures, seed: augmentation.erase(pictures, seed, 0.5, 12),
    ):
        once, again, otherwise = (alter(pictures, tf.constant(seed)).numpy() for seed in ([1, 2], [1, 2], [1, 3]))
        assert once.shape == (64, 28, 28)
        np.testing.assert_array_equal(once, again)
        assert (once != otherwise).any()


def test_half_of_the_pictures_are_mirrored() -> None:
    mirrored = augmentation.mirror(tf.constant(PICTURES), tf.constant([1, 2])).numpy()
    same = (mirrored == PICTURES).all(axis=(1, 2))
    assert (same | (mirrored == PICTURES[:, :, ::-1]).all(axis=(1, 2))).all()
    assert 16 < same.sum() < 48


def test_shift_moves_each_picture_as_a_whole() -> None:
    shifted = augmentation.shift(tf.constant(PICTURES), tf.constant([1, 2]), 2).numpy()
    wider = np.pad(PICTURES, [(0, 0), (2, 2), (2, 2)])
    corners = [(row, column) for row in range(5) for column in range(5)]
    places = [
        [(row, column) for row, column in corners if (window == wider[n, row : row + 28, column : column + 28]).all()]
        for n, window in enumerate(shifted)
    ]
    assert [len(found) for found in places] == [1] * 64
    assert len({found[0] for found in places}) > 15


def test_erased_rectangle_has_one_shade_and_a_largest_side() -> None:
    pictures = np.full((256, 28, 28), -1, np.float32)
    erased = augmentation.erase(tf.constant(pictures), tf.constant([1, 2]), 0.5, 12).numpy()
    changed = erased != -1
    assert 96 < changed.any(axis=(1, 2)).sum() < 160
    for one, where in zip(erased, changed, strict=True):
        assert len(np.unique(one[where])) <= 1
        assert where.any(axis=0).sum() <= 12
        assert where.any(axis=1).sum() <= 12
        assert where.sum() == where.any(axis=0).sum() * where.any(axis=1).sum()


def test_photo_views_follow_their_seed_and_stay_in_range() -> None:
    pixels = np.random.default_rng(1).integers(256, size=(3, 40, 40, 3), dtype=np.uint8)
    first, second, again = (
        augmentation.photo_views(pixels, 32, np.random.default_rng(seed)).numpy() for seed in (1, 2, 1)
    )
    assert first.shape == (3, 32, 32, 3)
    assert first.min() >= 0
    assert first.max() <= 255
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - second).mean() > 1
