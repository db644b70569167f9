import pytest

from training.errors import ConfigError
from training.models import photos


@pytest.mark.parametrize("folds", [1, 6])
def test_folds_are_two_to_five(folds: int) -> None:
    with pytest.raises(ConfigError, match=f"folds is {folds}, expected 2 to 5"):
        photos.Config(folds=folds)
