from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import folder
from training.errors import ConfigError


def config(directory: Path, name: str = "shoes") -> folder.Config:
    return folder.Config(directory=directory, name=name)


@pytest.mark.parametrize("name", ["shoes", "my shoes", "Überzüge", "shoes.v2"])
def test_valid_name(name: str, tmp_path: Path) -> None:
    assert config(tmp_path, name).name == name


@pytest.mark.parametrize("name", ["", " ", ".shoes", "..", "a/b", "a\\b", "a:b", "a\nb", "\udcff"])
def test_invalid_name_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name is "):
        config(tmp_path, name)


def test_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"directory is .*none, no folder that exists; expected a folder"):
        config(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"directory is .*file, a file; expected a folder"):
        config(tmp_path / "file")


def draw(directory: Path, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        (directory / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(directory / name / f"{number}.png")


def test_a_seventh_of_each_class_is_the_test_split(tmp_path: Path) -> None:
    draw(tmp_path, {"hats": 14, "shoes": 21})
    training, test = folder.read(config(tmp_path))
    assert np.bincount(training.labels).tolist() == [12, 18]
    assert np.bincount(test.labels).tolist() == [2, 3]
    assert not set(training.files) & set(test.files)


def test_validation_folder_is_the_test_split(tmp_path: Path) -> None:
    draw(tmp_path / "train", {"hats": 10, "shoes": 10})
    draw(tmp_path / "validation", {"hats": 1, "shoes": 2})
    training, test = folder.read(config(tmp_path))
    assert np.bincount(training.labels).tolist() == [10, 10]
    assert np.bincount(test.labels).tolist() == [1, 2]


def test_train_without_validation_is_split(tmp_path: Path) -> None:
    draw(tmp_path / "train", {"hats": 14, "shoes": 14})
    training, test = folder.read(config(tmp_path))
    assert (len(training.files), len(test.files)) == (24, 4)
