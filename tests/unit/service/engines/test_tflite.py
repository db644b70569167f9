"""A LiteRT model where TensorFlow Serving looks for it, without a SavedModel."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from service.engines.base import LoadError, LoadOptions
from service.engines.loading import load_engine
from service.serving_config import ServingConfig, read_serving_config
from service.tensors.signature import DEFAULT_SIGNATURE

SHIPPED = Path(__file__).parents[4] / "models/regression/1"
OPTIONS = LoadOptions(prefer_tflite=True)


@pytest.fixture
def version(tmp_path: Path) -> Path:
    shutil.copy(SHIPPED / "assets.extra/model.tflite", tmp_path)
    return tmp_path


def test_it_is_run_by_its_own_signatures(version: Path) -> None:
    engine = load_engine(version, ServingConfig(), "auto", OPTIONS)
    signature = engine.signatures[DEFAULT_SIGNATURE]
    ((name, spec),) = signature.inputs.items()
    assert (spec.dtype, signature.method_name) == ("DT_FLOAT", "tensorflow/serving/predict")
    (outputs,) = engine.run(DEFAULT_SIGNATURE, {name: np.array([10.0], np.float32)}).values()
    np.testing.assert_allclose(outputs, [31], atol=0.1)


def test_without_signatures_tensors_have_their_names_in_the_graph(
    version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Interpreter, "get_signature_list", lambda _: {})
    engine = load_engine(version, ServingConfig(), "auto", OPTIONS)
    (name,) = engine.signatures[DEFAULT_SIGNATURE].inputs
    assert name == engine.signatures[DEFAULT_SIGNATURE].inputs[name].name
    # Of other shapes, too.
    for rows in (1, 3):
        inputs = {name: np.full(rows, 10.0, np.float32)}
        (outputs,) = engine.run(DEFAULT_SIGNATURE, inputs).values()
        np.testing.assert_allclose(outputs, [31] * rows, atol=0.1)


def test_it_is_run_only_where_the_setting_asks_for_it(version: Path) -> None:
    with pytest.raises(LoadError, match="not a SavedModel"):
        load_engine(version, ServingConfig(), "auto")


def test_a_damaged_one_is_refused(version: Path) -> None:
    (version / "model.tflite").write_bytes(b"no model")
    with pytest.raises(LoadError, match="LiteRT cannot read"):
        load_engine(version, ServingConfig(), "auto", OPTIONS)


def test_a_twin_is_not_of_a_graph_with_other_tags() -> None:
    with pytest.raises(LoadError, match="its twin was made from the graph with the tag 'serve'"):
        load_engine(SHIPPED, read_serving_config(SHIPPED), "litert", LoadOptions(tags=("serve", "gpu")))
