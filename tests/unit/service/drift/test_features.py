import numpy as np
import pytest

from service.drift.features import ENOUGH_PLACES, features


def test_small_rows_have_a_feature_for_each_value() -> None:
    found = features({"x": np.array([1.0, 2.0], np.float32), "sizes": np.array([[1, 2, 3], [4, 5, 6]], np.int32)})
    assert list(found) == ["x", "sizes[0]", "sizes[1]", "sizes[2]"]
    assert found["x"].tolist() == [1, 2]
    assert found["sizes[2]"].tolist() == [3, 6]


def test_pictures_have_statistics() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16)).astype(np.uint8)
    smallest = pixels.min(axis=(1, 2), keepdims=True)
    found = features({"pixels": pixels})
    assert list(found) == [f"pixels {each}" for each in ("mean", "deviation", "smallest", "largest", "ground")]
    np.testing.assert_allclose(found["pixels mean"], pixels.mean(axis=(1, 2)))
    np.testing.assert_allclose(found["pixels deviation"], pixels.std(axis=(1, 2)))
    assert found["pixels smallest"].tolist() == smallest.ravel().tolist()
    assert found["pixels largest"].tolist() == pixels.max(axis=(1, 2)).tolist()
    assert found["pixels ground"].tolist() == (pixels == smallest).mean(axis=(1, 2)).tolist()


def test_channels_have_their_own_statistics() -> None:
    motion = np.random.default_rng(0).normal(size=(3, 100, 6)).astype(np.float32)
    found = features({"motion": motion})
    assert len(found) == 30 + 5
    np.testing.assert_allclose(found["motion[4] mean"], motion[..., 4].mean(axis=1), atol=1e-6)
    means = motion.mean(axis=1)
    np.testing.assert_allclose(found["motion[1]-[2]"], means[:, 1] - means[:, 2], atol=1e-6)


@pytest.mark.parametrize(
    ("row_shape", "channels"), [((64, 64, 3), 3), ((28, 28, 1), 1), ((28, 28), 1), ((784,), 1), ((9, 9, 9), 1)]
)
def test_few_values_on_the_last_axis_are_channels(row_shape: tuple[int, ...], channels: int) -> None:
    names = list(features({"x": np.zeros((2, *row_shape))}))
    assert (names[0], len(names)) == ("x[0] mean" if channels > 1 else "x mean", 6 * channels - 1)


def test_large_pictures_are_sampled() -> None:
    photo = np.random.default_rng(0).normal(100, 20, (2, 224, 224, 3)).astype(np.float32)
    found = features({"photo": photo})
    for channel in range(3):
        np.testing.assert_allclose(found[f"photo[{channel}] mean"], photo[..., channel].mean(axis=(1, 2)), atol=4)
        np.testing.assert_allclose(found[f"photo[{channel}] deviation"], photo[..., channel].std(axis=(1, 2)), atol=4)


def test_enough_places_of_a_row_are_measured() -> None:
    for places in (33, 100, 256, 511, 512, 784, 50_176):
        row = np.arange(places, 0, -1, dtype=np.float32)[np.newaxis]
        looked_at = round(1 / features({"row": row})["row ground"][0])
        assert looked_at == places or ENOUGH_PLACES <= looked_at < 2 * ENOUGH_PLACES


def test_strings_scalars_and_empty_arrays_have_no_features() -> None:
    empty = {"x": np.zeros((0, 3)), "pixels": np.zeros((0, 28, 28)), "nothing": np.zeros((2, 0))}
    assert features({"text": np.array([b"a", b"b"], object), "scalar": np.array(1.0), **empty}) == {}


def test_one_shade_has_no_deviation() -> None:
    found = features({"pixels": np.full((3, 28, 28), [[[0.0]], [[255.0]], [[0.1]]], np.float32)})
    assert found["pixels deviation"] == pytest.approx(0, abs=1e-6)


def test_nan_has_no_mean() -> None:
    pixels = np.ones((2, 9, 9), np.float32)
    pixels[1, 0, 0] = np.nan
    found = features({"pixels": pixels})
    for name in ("mean", "deviation", "smallest", "largest"):
        assert np.isnan(found[f"pixels {name}"]).tolist() == [False, True]
