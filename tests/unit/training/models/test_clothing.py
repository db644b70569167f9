import pytest

from training.errors import ConfigError
from training.models.clothing import Config


def test_each_network_has_its_own_epochs_and_rate() -> None:
    dense, convolution = Config(network="dense"), Config()
    assert (dense.epochs, dense.learning_rate) == (12, 0.002)
    assert (convolution.network, convolution.epochs, convolution.learning_rate) == ("convolution", 36, 0.1)
    assert Config(network="dense", epochs=3, learning_rate=0.1).epochs == 3


@pytest.mark.parametrize(("field", "value"), [("epochs", -1), ("learning_rate", float("nan"))])
def test_invalid_setting_is_an_error(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        Config(**{field: value})  # type: ignore[arg-type]
