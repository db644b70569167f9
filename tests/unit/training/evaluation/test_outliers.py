import numpy as np
import pytest

from training.evaluation import outliers
from training.evaluation.evaluate import Floats, Integers


def clouds(count: int = 600, size: int = 8, seed: int = 0) -> tuple[Floats, Integers]:
    """Places of three classes, each about its own axis, with little spread along these three axes and hardly any
    along the others."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    spread = np.where(np.arange(size) < 3, 0.3, 0.03)
    return 5 * np.eye(size)[labels] + generator.normal(0, spread, (count, size)), labels


def test_held_out_examples_are_near_and_others_far() -> None:
    distance = outliers.fit(*clouds(seed=0))
    inside = distance(clouds(seed=1)[0])
    between = 2.5 * (np.eye(8)[0] + np.eye(8)[1])[np.newaxis]
    elsewhere = 5 * np.eye(8)[7][np.newaxis]
    limit = outliers.threshold(inside)
    assert (inside > limit).mean() == pytest.approx(0.01)
    assert distance(between) > 2 * limit
    assert distance(elsewhere) > 2 * limit


def test_a_step_in_a_direction_of_little_spread_counts_more() -> None:
    distance = outliers.fit(*clouds())
    middle = 5 * np.eye(8)[:1]
    assert distance(middle + 0.5 * np.eye(8)[7]) > 3 * distance(middle + 0.5 * np.eye(8)[1])


def test_the_distance_is_to_the_nearest_class() -> None:
    distance = outliers.fit(*clouds())
    middles = distance(5 * np.eye(8)[:3])
    assert (middles < outliers.threshold(distance(clouds(seed=1)[0]))).all()


def test_features_of_which_some_never_move_give_finite_distances() -> None:
    features, labels = clouds()
    features[:, 5:] = 0
    distance = outliers.fit(features, labels)
    assert np.isfinite(distance(features)).all()
    assert distance(features + np.eye(8)[6]).min() > distance(features).max()


@pytest.mark.parametrize("features", [np.zeros((6, 4)), np.ones((6, 4)), np.ones((6, 2))])
def test_features_that_are_all_equal_give_finite_distances(features: Floats) -> None:
    distance = outliers.fit(features, np.arange(6) % 2)
    assert np.isfinite(distance(features)).all()
    assert np.isfinite(distance(1e6 * features)).all()
    assert np.isfinite(distance(np.zeros_like(features))).all()


def test_more_features_than_examples_and_than_directions_are_kept() -> None:
    generator = np.random.default_rng(0)
    features, labels = generator.normal(size=(30, 200)), np.arange(30) % 3
    distance = outliers.fit(features, labels)
    assert distance.directions.shape == (200, outliers.MOST_DIRECTIONS)
    assert distance.rest > 0
    assert (distance.variances > 0).all()
    assert distance(100 * generator.normal(size=(5, 200))).min() > distance(features).max()


def test_a_class_without_examples_has_no_centre() -> None:
    features, labels = clouds()
    distance = outliers.fit(features[labels != 1], labels[labels != 1])
    assert distance.centers.shape == (2, 8)


def test_auroc_is_how_often_an_outlier_scores_higher() -> None:
    inside = np.array([1.0, 2.0, 3.0, 4.0])
    assert outliers.auroc(inside, np.array([5.0, 6.0])) == 1
    assert outliers.auroc(inside, inside) == 0.5
    assert outliers.auroc(inside, np.array([2.5])) == 0.5
    assert outliers.auroc(inside, np.array([0.0])) == 0
