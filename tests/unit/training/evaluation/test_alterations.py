import numpy as np
import pytest

from training.evaluation import alterations

PICTURES = np.random.default_rng(0).integers(0, 256, (8, 28, 28), np.uint8)


@pytest.mark.parametrize("pictures", [PICTURES, np.stack([PICTURES] * 3, axis=-1)], ids=["grey", "RGB"])
def test_pictures_keep_shape_and_range(pictures: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    altered = alterations.of_pictures(pictures, seed=1)
    assert all(each.shape == pictures.shape and each.min() >= 0 and each.max() <= 255 for each in altered.values())
    assert altered["blurred"].std() < altered["a little blurred"].std() < pictures.std() / 2
    assert altered["darkened"].mean() == pytest.approx(pictures.mean() / 2)


def test_recordings_are_smoothed_within_themselves() -> None:
    recordings = np.random.default_rng(0).normal(5, 1, (4, 100, 6)).astype(np.float32)
    altered = alterations.of_recordings(recordings, seed=1)
    assert all(each.shape == recordings.shape for each in altered.values())
    assert altered["smoothed"].std() < altered["a little smoothed"].std() < 1
    assert altered["smoothed"].mean() == pytest.approx(5, abs=0.1)
    assert altered["noisy"].std() == pytest.approx(np.sqrt(1.25), abs=0.05)


def test_every_second_label_becomes_rare() -> None:
    labels = np.arange(4_000) % 4
    counts = np.bincount(labels[alterations.with_other_labels(labels, seed=1)])
    assert counts[[0, 2]].tolist() == [1_000, 1_000]
    assert counts[[1, 3]] == pytest.approx(250, abs=50)
