from pathlib import Path

import numpy as np
from PIL import Image

from service.serving_config import Sample
from training.data import samples

NAMES = ("bag", "hat")
LABELS = np.array([1, 0, 1, 1, 0, 0])


def test_first_pictures_of_each_class_are_written(tmp_path: Path) -> None:
    images = np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2)
    found = samples.pictures(tmp_path, images, LABELS, NAMES)
    assert [sample.expected for sample in found] == ["bag", "bag", "hat", "hat"]
    for sample, place in zip(found, [1, 4, 0, 2], strict=True):
        with Image.open(tmp_path / str(sample.file)) as picture:
            assert np.array_equal(np.asarray(picture), images[place])
    assert [sample.expected for sample in samples.pictures(tmp_path, images[:1], LABELS[:1], NAMES)] == ["hat"]


def test_photos_become_small_upright_and_lose_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    exif[0x010F] = "a camera"
    photo = tmp_path / "photo.jpg"
    Image.new("RGB", (800, 400), "red").save(photo, exif=exif)
    (found,) = samples.photos(tmp_path, [photo], np.array([0]), NAMES)
    with Image.open(tmp_path / str(found.file)) as small:
        assert (small.size, dict(small.getexif())) == ((150, 300), {})


def test_recordings_alone_and_in_a_row(tmp_path: Path) -> None:
    values = np.arange(6 * 3 * 2, dtype=np.float32).reshape(6, 3, 2)
    *alone, joined = samples.recordings(tmp_path, values, LABELS, NAMES, ("x", "y"))
    assert [sample.expected for sample in alone] == ["bag", "bag", "hat", "hat"]
    first = (tmp_path / str(alone[0].file)).read_text().splitlines()
    assert first == ["x,y", "6.0000,7.0000", "8.0000,9.0000", "10.0000,11.0000"]
    assert joined == Sample(file="samples/all-in-a-row.csv")
    steps = np.loadtxt(tmp_path / str(joined.file), delimiter=",", skiprows=1)
    assert np.array_equal(steps, np.concatenate([values[1], values[0]]))
