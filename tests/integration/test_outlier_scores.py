"""Models that tell what looks like nothing they know: the SavedModel and its twin at each precision."""

from pathlib import Path

import numpy as np
import pytest

from service.engines.loading import load_engine
from service.serving_config import read_serving_config
from service.settings import EngineChoice
from tests.integration.scored_models import SIZE, Precision, save_brightness

# Of each half. The mean tells the label, the spread is the score.
LEVELS = ((0, 0), (0, 51), (0, 255))


@pytest.mark.parametrize(
    ("choice", "precision"),
    [("tensorflow", "float32"), ("litert", "float32"), ("auto", "float16"), ("auto", "int8")],
)
def test_each_row_gets_its_labels_and_its_score(choice: EngineChoice, precision: Precision, tmp_path: Path) -> None:
    save_brightness(tmp_path, precision=precision)
    config = read_serving_config(tmp_path)
    engine = load_engine(tmp_path, config, choice)
    assert engine.name == ("tensorflow" if choice == "tensorflow" else "litert")
    assert set(engine.signatures) == {"serving_default", "scored"}
    pixels = np.array([np.tile(np.repeat(levels, SIZE // 2), (SIZE, 1)) for levels in LEVELS], np.float32)
    scored = engine.run("scored", {"pixels": pixels})
    (probabilities,) = engine.run("serving_default", {"pixels": pixels}).values()
    assert probabilities.tolist() == scored["probabilities"].tolist()
    assert [config.labels[index] for index in probabilities.argmax(axis=1)] == ["dark", "dark", "grey"]
    np.testing.assert_allclose(scored["outlier_score"], [0, 0.2, 1], atol=0.01)
