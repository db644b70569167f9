"""Models and files of Keras 2, written by tf_keras, imported."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")
pytest.importorskip("tf_keras", reason="tf-keras is not installed (requirements/train.txt)")

import h5py
import tensorflow as tf
import tf_keras as keras

from service.engines.loading import load_engine
from service.serving_config import ServingConfig, read_serving_config
from service.tensors.dtypes import DTYPES
from training import publish
from training.errors import RunError
from training.importing import keras_file

layers = keras.layers
RNG = np.random.default_rng(1)
pytestmark = pytest.mark.usefixtures("unmeasured_imports")


def sequential(shape: tuple[int | None, ...], *parts: Any) -> Any:
    return keras.Sequential([keras.Input(shape), *parts])


def dense(_: Path) -> Any:
    model = sequential((28, 28), layers.Flatten(), layers.Dense(4, activation="relu"), layers.Dense(3))
    model.compile("adam", "mse", metrics=["mae"])
    return model


def convolution(_: Path) -> Any:
    """Whose normalisation differs between fitting and serving."""
    normal = layers.BatchNormalization()
    model = sequential((8, 8, 3), layers.Rescaling(1 / 255), layers.Conv2D(4, 3), normal, layers.DepthwiseConv2D(3))
    model.add(layers.GlobalAveragePooling2D())
    normal.set_weights([np.full(4, each, np.float32) for each in (2, 1, 0.3, 4)])
    return model


def lstm(_: Path) -> Any:
    both = layers.Bidirectional(layers.LSTM(4, return_sequences=True))
    return sequential((12,), layers.Embedding(20, 4, mask_zero=True), both, layers.LSTM(4), layers.Dense(2))


def recurrent_of_any_length(_: Path) -> Any:
    both = layers.Bidirectional(layers.GRU(3, return_sequences=True))
    return sequential(
        (None,),
        layers.Embedding(20, 4, mask_zero=True),
        both,
        layers.SimpleRNN(4, return_sequences=True),
        layers.LSTM(2),
    )


def two_inputs_and_outputs(_: Path) -> Any:
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    both = layers.Concatenate()([a, b])
    return keras.Model([a, b], [layers.Dense(2, name="age")(both), layers.Dense(1)(both)])


def mixed(_: Path) -> Any:
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        return sequential((6,), layers.Dense(4, activation="relu"), layers.Dense(2))
    finally:
        keras.mixed_precision.set_global_policy("float32")


def words(_: Path) -> Any:
    lookup = layers.StringLookup(vocabulary=["shirt", "shoe"])
    kind = keras.Input((1,), dtype="string", name="kind")
    return keras.Sequential([kind, lookup, layers.Embedding(3, 2), layers.Flatten(), layers.Dense(1)])


def text(_: Path) -> Any:
    vectors = layers.TextVectorization(20, output_sequence_length=4)
    vectors.adapt(["a red shoe", "the blue shirt"])
    kind = keras.Input((1,), dtype="string", name="kind")
    return keras.Sequential([kind, vectors, layers.Embedding(20, 4), layers.Flatten(), layers.Dense(2)])


def subclassed(_: Path) -> Any:
    class Own(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, values: Any) -> Any:
            return tf.nn.softmax(self.dense(values))

    model = Own()
    model(np.zeros((1, 5), np.float32))
    return model


def saved(make: Callable[[Path], Any], name: str) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        make(folder).save(folder / name, save_format=None if "." in name else "tf")
        return folder / name

    save.__name__ = f"{make.__name__}-{name}"
    return save


def signatures(folder: Path) -> Path:
    model = dense(folder)
    spec = tf.TensorSpec([None, 28, 28], tf.float32, name="pixels")
    best = tf.function(lambda pixels: {"best": tf.argmax(model(pixels), axis=1)}, input_signature=[spec])
    all_of_them = tf.function(lambda pixels: {"scores": model(pixels)}, input_signature=[spec])
    model.save(folder / "saved", save_format="tf", signatures={"serving_default": all_of_them, "best": best})
    return folder / "saved"


def version(made: Any, folder: Path, **options: Any) -> tuple[Path, ServingConfig]:
    found = publish(made, folder / "models", name="m", **options)
    return found, read_serving_config(found)


@pytest.mark.parametrize(
    "make",
    [
        saved(dense, "saved"),
        signatures,
        saved(convolution, "m.h5"),
        saved(recurrent_of_any_length, "m.keras"),
        two_inputs_and_outputs,
        saved(mixed, "m.h5"),
        saved(words, "m.keras"),
        subclassed,
    ],
    ids=lambda make: make.__name__,
)
def test_model_has_a_twin_that_gives_the_same(make: Callable[[Path], Any], tmp_path: Path) -> None:
    made = make(tmp_path)
    folder, config = version(made, tmp_path)
    assert config.no_twin is None
    assert config.independent_rows is not None
    engines = load_engine(folder, config, "litert"), load_engine(folder, config, "tensorflow")
    assert engines[0].signatures.keys() == engines[1].signatures.keys()
    model = keras.models.load_model(made, compile=False) if isinstance(made, Path) else made
    if make.__name__.startswith(("mixed", "words")):
        return
    signature = engines[0].signatures["serving_default"]
    inputs = {
        name: RNG.uniform(0, 19, (3, *(9 if size == -1 else size for size in spec.shape[1:]))).astype(
            DTYPES[spec.dtype]
        )
        for name, spec in signature.inputs.items()
        if spec.shape is not None
    }
    expected = model(list(inputs.values()) if len(inputs) > 1 else next(iter(inputs.values())), training=False)
    for engine in engines:
        outputs = engine.run("serving_default", inputs)
        for name, array in zip(outputs, expected if isinstance(expected, list) else [expected], strict=True):
            assert outputs[name] == pytest.approx(np.asarray(array), abs=1e-4, rel=1e-4)


@pytest.mark.parametrize(
    ("make", "inputs", "outputs"),
    [
        (saved(dense, "m.h5"), {"inputs"}, {"output_0"}),
        (two_inputs_and_outputs, {"a", "b"}, {"age", "output_1"}),
        (saved(text, "m.keras"), {"kind"}, {"output_0"}),
    ],
    ids=["made up", "given", "text"],
)
def test_names_are_those_that_the_owner_gave(make: Any, inputs: Any, outputs: Any, tmp_path: Path) -> None:
    _, config = version(make(tmp_path), tmp_path, twin=False)
    signature = config.signatures["serving_default"]
    assert (signature.inputs.keys(), signature.outputs.keys()) == (inputs, outputs)


def test_saved_models_recurrent_loop_is_one_sentence(tmp_path: Path) -> None:
    _, config = version(saved(lstm, "saved")(tmp_path), tmp_path)
    assert config.no_twin is not None
    assert "the loop of a recurrent layer" in config.no_twin


OWN = """
import tf_keras

class Twice(tf_keras.layers.Layer):
    def call(self, values):
        return 2.0 * values
"""


@pytest.mark.parametrize("name", ["own.h5", "own.keras"])
def test_own_layers_come_from_a_file_of_code(name: str, tmp_path: Path) -> None:
    (code := tmp_path / "own_layers.py").write_text(OWN)
    names: dict[str, Any] = {"__name__": "elsewhere"}
    exec(OWN, names)
    sequential((2,), names["Twice"](), layers.Dense(2)).save(tmp_path / name)
    with pytest.raises(RunError, match=r"it has 'Twice', which Keras does not know; .* --code FILE"):
        publish(tmp_path / name, tmp_path, name="m")
    _, config = version(tmp_path / name, tmp_path, code=code)
    assert config.twin is not None
    code.write_text(OWN.replace("tf_keras", "keras"))
    with pytest.raises(RunError, match="its classes are Keras 3's"):
        publish(tmp_path / name, tmp_path, name="m", code=code)


def weights(name: str) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        subclassed(folder).save_weights(folder / name)
        return folder / name

    return save


def with_lambda(_: Path) -> Any:
    return sequential((3,), layers.Lambda(lambda values: values * 2), layers.Dense(1))


def imports_code(folder: Path) -> Path:
    """Whose activation is a function of Python's library."""
    model = sequential((3,), layers.Dense(1, activation="relu"))
    config = model.to_json().replace('"relu"', '{"class_name": "function", "module": "os", "config": "system"}')
    model.save(folder / "m.h5")
    with h5py.File(folder / "m.h5", "a") as file:
        file.attrs["model_config"] = config
    return folder / "m.h5"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (weights("m.h5"), "it holds weights only"),
        (weights("m.weights.h5"), "it holds weights only"),
        (saved(with_lambda, "m.h5"), "it has a Lambda layer, .* safe_mode=False"),
        (saved(with_lambda, "m.keras"), "it has a Lambda layer, .* safe_mode=False"),
        (imports_code, "it has 'system', which Keras does not know"),
        (lambda _: keras.Sequential([layers.Dense(2)]), "the model was never called"),
    ],
)
def test_what_cannot_be_imported_is_one_sentence(make: Callable[[Path], Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=says) as caught:
        publish(make(tmp_path), tmp_path / "models", name="m")
    assert "\n" not in str(caught.value)


def test_file_of_keras_2_names_the_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(dense, "m.h5")(tmp_path)
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    with pytest.raises(RunError, match="wrote it, which the package tf-keras reads"):
        keras_file.read(path, None)
