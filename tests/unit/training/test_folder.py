from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.serving_config import ImageSpec, ServingConfig, write_serving_config
from training import folder
from training.errors import ConfigError, DatasetError
from training.models import photos


def config(*directory: Path, name: str = "shoes", output: Path = Path("models")) -> folder.Config:
    return folder.Config(directory=directory, name=name, output=output)


def draw(directory: Path, drawn: dict[str, int]) -> Path:
    """So many pictures in each class."""
    for name, count in drawn.items():
        (directory / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(directory / name / f"{number}.png")
    return directory


@pytest.mark.parametrize("name", ["shoes", "my shoes", "Überzüge", "shoes.v2"])
def test_valid_name(name: str, tmp_path: Path) -> None:
    config(tmp_path, name=name)


@pytest.mark.parametrize("name", ["", " ", ".shoes", "..", "a/b", "a\\b", "a:b", "a\nb", "\udcff"])
def test_invalid_name_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name is "):
        config(tmp_path, name=name)


@pytest.mark.parametrize(
    ("drawn", "training", "test"),
    [
        ({"hats": 14, "shoes": 21}, [12, 18], [2, 3]),
        ({"train/hats": 14, "train/shoes": 14}, [12, 12], [2, 2]),
        ({"train/hats": 10, "train/shoes": 10, "validation/hats": 1, "validation/shoes": 2}, [10, 10], [1, 2]),
    ],
    ids=["a seventh of each class", "a seventh without a validation folder", "the validation folder"],
)
def test_test_split(drawn: dict[str, int], training: list[int], test: list[int], tmp_path: Path) -> None:
    draw(tmp_path, drawn)
    to_train, to_test = folder.read(config(tmp_path))
    assert np.bincount(to_train.labels).tolist() == training
    assert np.bincount(to_test.labels).tolist() == test
    assert not set(to_train.files) & set(to_test.files)


@pytest.mark.parametrize(
    "drawn",
    [{"hats": 14, "shoes": 14}, {"train/hats": 14, "train/shoes": 14, "validation/hats": 2, "validation/shoes": 2}],
    ids=["a seventh", "the validation folder"],
)
def test_more_pictures_are_for_training_alone(drawn: dict[str, int], tmp_path: Path) -> None:
    first, more = draw(tmp_path / "first", drawn), draw(tmp_path / "more", {"shoes": 9})
    alone, test = folder.read(config(first))
    to_train, to_test = folder.read(config(first, more))
    assert to_test.files == test.files
    assert (np.bincount(to_train.labels) - np.bincount(alone.labels)).tolist() == [0, 9]
    assert {path for path in to_train.files if more in path.parents} == {*more.rglob("*.png")}
    assert len(to_train.pixels) == len(to_train.files)


@pytest.mark.parametrize(
    ("drawn", "says"),
    [
        ({"boots": 1}, "'boots' is none of the classes to train on: hats, shoes"),
        ({"hats": 0}, "more: expected pictures of the classes to train on, found none"),
    ],
    ids=["another class", "no picture"],
)
def test_more_pictures_that_do_not_fit_are_an_error(drawn: dict[str, int], says: str, tmp_path: Path) -> None:
    first, more = draw(tmp_path / "first", {"hats": 14, "shoes": 14}), draw(tmp_path / "more", drawn)
    with pytest.raises(DatasetError, match=says):
        folder.read(config(first, more))


@pytest.mark.parametrize(
    ("labels", "image", "says"),
    [
        (("hats", "shoes"), photos.IMAGE, []),
        ((), None, []),
        (("boots", "hats"), None, ["the labels of version 2: new shoes; gone boots"]),
        (("shoes", "hats"), None, ["the labels of version 2: in another order"]),
        (
            ("hats", "shoes"),
            ImageSpec(height=28, width=28, mode="L"),
            ["version 2 takes pictures of 28×28 (L), this one of 224×224 (RGB)"],
        ),
    ],
    ids=["the same", "says nothing", "other labels", "another order", "other pictures"],
)
def test_changes_to_the_version_before(
    labels: tuple[str, ...], image: ImageSpec | None, says: list[str], tmp_path: Path
) -> None:
    assert list(folder.changes(config(tmp_path, output=tmp_path), ("hats", "shoes"))) == []
    for number, config_of in ((1, ServingConfig(labels=("a", "b"))), (2, ServingConfig(labels=labels, image=image))):
        version = tmp_path / "shoes" / str(number)
        version.mkdir(parents=True)
        (version / "saved_model.pb").touch()
        write_serving_config(version, config_of)
    assert list(folder.changes(config(tmp_path, output=tmp_path), ("hats", "shoes"))) == says
