from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.serving_config import ImageSpec
from training.data import Floats, Integers
from training.evaluation import outliers

AXES = np.eye(8)


def clouds(seed: int = 0) -> tuple[Floats, Integers]:
    """Places of three classes, each about its own axis, with little spread along these three axes and hardly any
    along the others."""
    generator = np.random.default_rng(seed)
    labels = np.arange(600) % 3
    spread = np.where(np.arange(8) < 3, 0.3, 0.03)
    return 5 * AXES[labels] + generator.normal(0, spread, (600, 8)), labels


def test_held_out_examples_are_near_and_others_far() -> None:
    distance = outliers.fit(*clouds(seed=0))
    inside = distance(clouds(seed=1)[0])
    limit = outliers.threshold(inside)
    assert (inside > limit).mean() == pytest.approx(0.01)
    assert (distance(5 * AXES[:3]) < limit).all()
    between, elsewhere = 2.5 * (AXES[:1] + AXES[1:2]), 5 * AXES[7:]
    assert distance(between) > 2 * limit
    assert distance(elsewhere) > 2 * limit
    # Directions of little spread count more.
    assert distance(5 * AXES[:1] + 0.5 * AXES[7]) > 3 * distance(5 * AXES[:1] + 0.5 * AXES[1])


def test_constant_features_give_finite_distances() -> None:
    features, labels = clouds()
    features[:, 5:] = 0
    distance = outliers.fit(features, labels)
    assert np.isfinite(distance(features)).all()
    assert distance(features + AXES[6]).min() > distance(features).max()


@pytest.mark.parametrize("features", [np.zeros((6, 4)), np.ones((6, 4)), np.ones((6, 2))])
def test_equal_features_give_finite_distances(features: Floats) -> None:
    distance = outliers.fit(features, np.arange(6) % 2)
    for places in (features, 1e6 * features, np.zeros_like(features)):
        assert np.isfinite(distance(places)).all()


def test_more_features_than_examples() -> None:
    generator = np.random.default_rng(0)
    features, labels = generator.normal(size=(30, 200)), np.arange(30) % 3
    distance = outliers.fit(features, labels)
    assert distance.directions.shape == (200, outliers.MAX_DIRECTIONS)
    assert distance.rest > 0
    assert (distance.variances > 0).all()
    assert distance(100 * generator.normal(size=(5, 200))).min() > distance(features).max()


def test_class_without_examples_has_no_centre() -> None:
    features, labels = clouds()
    assert outliers.fit(features[labels != 1], labels[labels != 1]).centers.shape == (2, 8)


@pytest.mark.parametrize("shape", [(20, 28, 28), (20, 32, 32, 3)])
def test_probe_pictures_have_the_shape_of_the_examples(shape: tuple[int, ...]) -> None:
    examples = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    made = outliers.probe_pictures(examples, seed=1)
    for pictures in made.values():
        assert pictures.shape[1:] == shape[1:]
        assert 0 <= pictures.min() <= pictures.max() <= 255
    np.testing.assert_array_equal(made["inverted"], 255.0 - examples)
    np.testing.assert_array_equal(made["upside down"][:, 0], examples[:, -1])
    np.testing.assert_array_equal(np.sort(made["pixels in random order"][3], axis=None), np.sort(examples[3], None))
    assert np.ptp(made["of one shade"].reshape(len(made["of one shade"]), -1), axis=1).max() == 0


def test_probe_recordings_have_the_shape_of_the_examples() -> None:
    examples = np.random.default_rng(0).normal(3, 2, (12, 50, 6)).astype(np.float32)
    made = outliers.probe_recordings(examples, seed=1)
    assert {recordings.shape for recordings in made.values()} == {examples.shape}
    assert np.ptp(made["a constant"], axis=1).max() == 0
    np.testing.assert_array_equal(np.sort(made["steps in random order"], axis=1), np.sort(examples, axis=1))
    assert {tuple(step) for step in made["steps in random order"][0]} == {tuple(step) for step in examples[0]}


def test_probes_are_at_most_1000_and_follow_the_seed() -> None:
    examples = np.zeros((1_200, 4, 4), np.uint8)
    one, same, other = (outliers.probe_pictures(examples, seed)["uniform noise"] for seed in (1, 1, 2))
    assert len(one) == 1_000
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_probe_photos_are_read_as_the_service_does(tmp_path: Path) -> None:
    (tmp_path / "hats").mkdir()
    Image.new("RGB", (60, 40), "white").save(tmp_path / "hats" / "one.PNG")
    Image.new("L", (40, 60)).save(tmp_path / "two.jpg")
    (tmp_path / "notes.txt").write_text("no photo")
    spec = ImageSpec(height=28, width=28, mode="L", fit="contain", ground="black")
    photos = outliers.probe_photos(tmp_path, spec)
    assert photos.shape == (2, 28, 28)
    assert photos.max() == 0  # white on white was inverted


def test_threshold_from_few_examples_tells_nothing() -> None:
    assert outliers.describe_threshold(99, "photos").startswith("too few photos")
    assert outliers.describe_threshold(3_068, "photos") == "from 3,068 held-out photos"
