from pathlib import Path

import numpy as np
from PIL import Image

from service.serving_config import ImageSpec
from training.evaluation import probes


def test_pictures_that_nobody_trained_on_have_the_form_of_those_that_somebody_did() -> None:
    for shape in ((20, 28, 28), (20, 32, 32, 3)):
        examples = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        made = probes.pictures(examples, seed=1)
        for pictures in made.values():
            assert pictures.shape[1:] == shape[1:]
            assert 0 <= pictures.min() <= pictures.max() <= 255
        np.testing.assert_array_equal(made["inverted"], 255.0 - examples)
        np.testing.assert_array_equal(made["upside down"][:, 0], examples[:, -1])
        np.testing.assert_array_equal(np.sort(made["pixels in random order"][3], axis=None), np.sort(examples[3], None))
        assert np.ptp(made["of one shade"].reshape(len(made["of one shade"]), -1), axis=1).max() == 0


def test_recordings_that_nobody_made_have_the_form_of_those_that_somebody_did() -> None:
    examples = np.random.default_rng(0).normal(3, 2, (12, 50, 6)).astype(np.float32)
    made = probes.recordings(examples, seed=1)
    for recordings in made.values():
        assert recordings.shape == examples.shape
    assert np.ptp(made["a constant"], axis=1).max() == 0
    np.testing.assert_array_equal(np.sort(made["steps in random order"], axis=1), np.sort(examples, axis=1))
    assert {tuple(step) for step in made["steps in random order"][0]} == {tuple(step) for step in examples[0]}


def test_no_more_than_a_thousand_of_each_kind_are_made_and_the_seed_decides() -> None:
    examples = np.zeros((1_200, 4, 4), np.uint8)
    one, same, other = (probes.pictures(examples, seed)["uniform noise"] for seed in (1, 1, 2))
    assert len(one) == 1_000
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_photos_are_read_as_the_service_would(tmp_path: Path) -> None:
    (tmp_path / "hats").mkdir()
    Image.new("RGB", (60, 40), "white").save(tmp_path / "hats" / "one.PNG")
    Image.new("L", (40, 60)).save(tmp_path / "two.jpg")
    (tmp_path / "notes.txt").write_text("no photo")
    spec = ImageSpec(height=28, width=28, mode="L", fit="contain", ground="black")
    photos = probes.photos(tmp_path, spec)
    assert photos.shape == (2, 28, 28)
    assert photos.max() == 0  # white on white was inverted
