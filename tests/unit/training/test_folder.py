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
    config(tmp_path, name)


@pytest.mark.parametrize("name", ["", " ", ".shoes", "..", "a/b", "a\\b", "a:b", "a\nb", "\udcff"])
def test_invalid_name_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name is "):
        config(tmp_path, name)


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
    for name, count in drawn.items():
        (tmp_path / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / name / f"{number}.png")
    to_train, to_test = folder.read(config(tmp_path))
    assert np.bincount(to_train.labels).tolist() == training
    assert np.bincount(to_test.labels).tolist() == test
    assert not set(to_train.files) & set(to_test.files)
