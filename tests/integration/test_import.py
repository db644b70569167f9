"""Models of every kind, made by other people's code, imported: which have twins, and what their versions hold."""

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")

import keras
import tensorflow as tf
from PIL import Image

from service.engines.loading import load_engine
from service.serving_config import ServingConfig, read_serving_config
from tests.integration import saved_models
from tests.integration.server import ROOT, running
from training import publish
from training.errors import RunError
from training.importing import measure

layers = keras.layers
RNG = np.random.default_rng(1)
pytestmark = pytest.mark.usefixtures("unmeasured_imports")


def sequential(*parts: Any) -> Any:
    return keras.Sequential([keras.Input(parts[0]) if isinstance(parts[0], tuple) else parts[0], *parts[1:]])


# Each writes a model into a folder, and gives what is imported: a keras.Model or a path.


def two_inputs_and_outputs(_: Path) -> Any:
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    both = layers.Concatenate()([a, b])
    return keras.Model([a, b], {"x": layers.Dense(2)(both), "y": layers.Dense(1)(both)})


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


def hdf5(folder: Path) -> Path:
    sequential((6,), layers.Dense(4, activation="relu"), layers.Dense(1)).save(folder / "model.h5")
    return folder / "model.h5"


def recurrent(folder: Path) -> Path:
    both = layers.Bidirectional(layers.LSTM(4, return_sequences=True))
    sequential((7, 3), layers.Masking(), both, layers.GRU(4), layers.Dense(2)).save(folder / "model.keras")
    return folder / "model.keras"


def recurrent_of_any_length(_: Path) -> Any:
    words = keras.Input((None,), dtype="int32")
    found = layers.Bidirectional(layers.GRU(3, return_sequences=True))(layers.Embedding(20, 4, mask_zero=True)(words))
    return keras.Model(words, layers.Dense(2)(layers.LSTM(4)(found)))


def many_layers(_: Path) -> Any:
    """Converted once: of words, of series, of volumes, of pictures, of attention."""
    words, series = keras.Input((None,), dtype="int32"), keras.Input((30, 2))
    volume, picture, values = keras.Input((6, 6, 6, 1)), keras.Input((16, 16, 3)), keras.Input((6, 8))
    deep = layers.DepthwiseConv2D(3)(layers.Conv2D(4, 3, activation="relu")(layers.Rescaling(1 / 255)(picture)))
    attended = layers.LayerNormalization()(values + layers.MultiHeadAttention(2, 4)(values, values))
    parts = [
        layers.GlobalAveragePooling1D()(layers.Embedding(20, 4)(words)),
        layers.GlobalMaxPooling1D()(layers.Conv1D(4, 5, activation="relu")(series)),
        layers.Flatten()(layers.Conv3D(2, 3)(volume)),
        layers.GlobalMaxPooling2D()(layers.ReLU(6)(layers.BatchNormalization()(deep))),
        layers.GlobalAveragePooling1D()(attended + layers.Dense(8)(layers.Dense(16, activation="gelu")(attended))),
    ]
    return keras.Model([words, series, volume, picture, values], layers.Dense(2)(layers.Concatenate()(parts)))


def text(_: Path) -> Any:
    words = layers.TextVectorization(20, output_sequence_length=4)
    words.adapt(["a red shoe", "the blue shirt"])
    return keras.Sequential(
        [keras.Input((1,), dtype="string"), words, layers.Embedding(20, 4), layers.Flatten(), layers.Dense(2)]
    )


def features(folder: Path) -> Path:
    kind, size = keras.Input((1,), dtype="string", name="kind"), keras.Input((2,), name="size")
    lookup = layers.StringLookup(vocabulary=["shirt", "shoe"], output_mode="one_hot")
    normal = layers.Normalization()
    normal.adapt(RNG.normal(size=(50, 2)))
    both = layers.Concatenate()([lookup(kind), normal(size)])
    keras.Model({"kind": kind, "size": size}, layers.Dense(1)(both)).save(folder / "model.keras")
    return folder / "model.keras"


def keras_export(folder: Path) -> Path:
    """With the signatures serve and serving_default, which are one function."""
    sequential((4,), layers.Dense(2)).export(folder / "exported", verbose=False)
    return folder / "exported"


def estimator(folder: Path) -> Path:
    saved_models.save_halves(folder / "halves", plus=2.0)
    return folder / "halves"


def signatures(folder: Path) -> Path:
    one = saved_models.spec("x", shape=[None, 3])
    double = (lambda x: {"y": 2.0 * x}, [one])
    mean = (lambda k: {"m": tf.reduce_mean(k, axis=1)}, [saved_models.spec("k", shape=[None, None])])
    saved_models.save(folder / "saved", lambda x: {"y": tf.nn.softmax(x)}, one, double=double, mean=mean)
    return folder / "saved"


def of_pictures() -> Any:
    parts = (layers.Rescaling(1 / 255), layers.Conv2D(4, 3, activation="relu"), layers.GlobalMaxPooling2D())
    return sequential((16, 16, 3), *parts, layers.Dense(3, activation="softmax"))


def int8(folder: Path) -> Path:
    converter = tf.lite.TFLiteConverter.from_keras_model(of_pictures())
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([picture] for picture in pictures(10)[:, np.newaxis])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    (folder / "model.tflite").write_bytes(converter.convert())
    return folder / "model.tflite"


def pictures(count: int) -> Any:
    return RNG.integers(0, 256, (count, 16, 16, 3)).astype(np.float32)


def version(make: Callable[[Path], Any], folder: Path, **options: Any) -> tuple[Path, ServingConfig]:
    found = publish(make(folder), folder / "models", name="m", **options)
    return found, read_serving_config(found)


# What is imported


@pytest.mark.parametrize(
    "make",
    [
        *(two_inputs_and_outputs, subclassed, hdf5, recurrent, recurrent_of_any_length, many_layers, features),
        *(keras_export, signatures),
    ],
    ids=lambda make: make.__name__,
)
def test_model_has_a_twin_with_every_signature(make: Callable[[Path], Any], tmp_path: Path) -> None:
    folder, config = version(make, tmp_path)
    assert config.no_twin is None
    engine = load_engine(folder, config, "litert")
    assert engine.signatures.keys() == load_engine(folder, config, "tensorflow").signatures.keys()
    assert config.independent_rows is not None
    assert set(config.independent_rows.signatures) == set(engine.signatures)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (text, "LiteRT does not have TensorFlow's RaggedTensorToTensor, StaticRegexReplace, StringLower"),
        (estimator, "LiteRT does not have TensorFlow's ParseExampleV2"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_litert_cannot_is_served_by_tensorflow(make: Callable[[Path], Any], reason: str, tmp_path: Path) -> None:
    folder, config = version(make, tmp_path)
    assert config.twin is None
    assert config.no_twin is not None
    assert config.no_twin.startswith(reason)
    assert load_engine(folder, config, "auto").name == "tensorflow"


def fitted() -> tuple[Any, Any, Any]:
    """A model of two classes, as a notebook has it at its end, and the test data."""
    x = RNG.normal(size=(300, 4)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] > 0).astype(int)
    model = sequential((4,), layers.Dense(8, activation="relu"), layers.Dense(2, activation="softmax"))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x[:200], y[:200], epochs=3, verbose=0)
    return model, x[200:], y[200:]


def test_readmes_own_lines_publish_serve_and_ask(tmp_path: Path) -> None:
    section = (ROOT / "README.md").read_text().split("## Serve your own model")[1].split("\n## ")[0]
    code, commands = (re.findall(rf"^```{kind}\n(.*?)^```", section, re.M | re.S)[0] for kind in ("python", "sh"))
    model, x_test, y_test = fitted()
    with chdir(tmp_path):
        exec(code, {"model": model, "x_test": x_test, "y_test": y_test})
    serve, curl = commands.splitlines()
    assert serve == "make serve"
    with running(tmp_path / "models", tmp_path / "log") as server:
        command = shlex.split(curl.replace(":8501", f":{server.port}"))
        asked = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, text=True)
        assert server.request("/v1/models/mine").json()["model_version_status"][0]["state"] == "AVAILABLE"
        assert 'engine="litert"' in server.request("/metrics").body.decode()
    ((first, second),) = json.loads(asked.stdout)["results"]
    assert {first[0], second[0]} == {"cat", "dog"}
    assert first[1] >= second[1]


def test_version_holds_what_is_known_of_the_examples(tmp_path: Path) -> None:
    model, x_test, y_test = fitted()
    folder, config = version(lambda _: model, tmp_path, labels=["cat", "dog"], examples=x_test, answers=y_test)
    assets = folder / "assets.extra"
    metrics = json.loads((assets / "metrics.json").read_text())
    right = model.predict(x_test, verbose=0).argmax(axis=1) == y_test
    assert metrics["accuracy"] == right.mean()
    assert config.twin is not None
    assert metrics["test_examples"] == config.twin.inputs_tried == 100
    assert config.samples[0].expected == ["cat", "dog"][y_test[0]]
    reference = json.loads((assets / "reference.json").read_text())
    assert reference["rows"] == 100
    assert sorted(reference["labels"]) == ["cat", "dog"]
    assert "proved equal on 100 examples" in (assets / "README.md").read_text()


def test_cost_is_that_of_one_engine_in_a_process_of_its_own(tmp_path: Path) -> None:
    file = keras.Input((2,), name="file")
    folder, _ = version(lambda _: keras.Model(file, layers.Dense(1)(file)), tmp_path)
    row = {"file": np.ones((1, 2), np.float32)}
    by_litert, by_tensorflow = (
        measure.cost(folder, "litert", "serving_default", row),
        measure.cost(folder, "tensorflow", "serving_default", row),
    )
    assert by_litert is not None
    assert by_tensorflow is not None
    assert by_litert.micros > 0
    if by_litert.memory and by_tensorflow.memory:
        assert by_litert.memory < by_tensorflow.memory / 2


def logits(folder: Path) -> Path:
    sequential((4,), layers.Dense(3)).save(folder / "model.keras")
    return folder / "model.keras"


def exported_logits(folder: Path) -> Path:
    keras.saving.load_model(logits(folder)).export(folder / "exported", verbose=False)
    return folder / "exported"


@pytest.mark.parametrize("make", [logits, exported_logits], ids=lambda make: make.__name__)
def test_scale_and_softmax_are_in_the_graph(make: Callable[[Path], Any], tmp_path: Path) -> None:
    folder, config = version(make, tmp_path, scale=1 / 255, softmax=True)
    x = RNG.uniform(0, 255, (5, 4)).astype(np.float32)
    expected = tf.nn.softmax(keras.saving.load_model(tmp_path / "model.keras")(x / 255)).numpy()
    (name,) = config.signatures["serving_default"].inputs
    for choice in ("litert", "tensorflow"):
        outputs = load_engine(folder, config, choice).run("serving_default", {name: x})
        assert outputs["output_0"] == pytest.approx(expected, abs=1e-6)


def test_scores_that_are_no_probabilities_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = RNG.normal(size=(20, 4)).astype(np.float32) * 9
    version(logits, tmp_path, labels=["a", "b", "c"], examples=x)
    printed = capsys.readouterr().out
    assert re.search(r"scores lie between -\S+ and \S+, .* pass --softmax", printed)


def test_pixels_that_were_scaled_outside_are_found_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which of two is brighter than 0.5, by its sign: with pixels of 0 to 255 everything is."""
    folders = {"bright": 250, "dark": 5}
    for name, grey in folders.items():
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8), (grey - number,) * 3).save(tmp_path / "pictures" / name / f"{number}.png")
    model = sequential((8, 8, 3), layers.GlobalAveragePooling2D(), layers.Dense(2, activation="softmax"))
    model.layers[-1].set_weights([np.array([[1, -1]] * 3, np.float32), np.array([-1.5, 1.5], np.float32)])
    publish(model, tmp_path / "models", name="m", examples=tmp_path / "pictures", twin=False)
    assert re.search(r"with pixels from 0 to 1 .* 1.0000 .* 0.5000: pass --scale 1/255", capsys.readouterr().out)


@pytest.mark.parametrize("precision", ["float16", "dynamic"])
def test_precision_is_proved_by_the_classes(precision: str, tmp_path: Path) -> None:
    _, config = version(lambda _: of_pictures(), tmp_path, precision=precision, examples=pictures(200))
    assert config.twin is not None
    assert config.twin.precision == precision
    assert config.twin.saved_model_accuracy == 1
    assert config.twin.accuracy is not None
    assert config.twin.accuracy >= 0.99


def test_tflite_is_served_as_it_is(tmp_path: Path) -> None:
    source = int8(tmp_path)
    folder, config = version(lambda _: source, tmp_path, labels=["a", "b", "c"], examples=pictures(5))
    assert (folder / "model.tflite").read_bytes() == source.read_bytes()
    assert not (folder / "saved_model.pb").exists()
    assert (config.twin, config.no_twin, config.signatures) == (None, None, {})
    assert config.labels == ("a", "b", "c")
    assert config.image is not None
    assert config.example == {"picture": "samples/01.png"}


def test_examples_of_an_estimator_are_its_warm_up(tmp_path: Path) -> None:
    (path := tmp_path / "examples.json").write_text('{"examples": [{"x": 2.0}, {"x": 3.0}, {"x": 5.0}]}')
    _, config = version(estimator, tmp_path, signature="regress", examples=path)
    assert config.independent_rows is not None
    assert "regress" in config.independent_rows.signatures


OWN = """
import keras

@keras.saving.register_keras_serializable("own")
class Twice(keras.layers.Layer):
    def call(self, values):
        return 2.0 * values
"""


def test_own_layers_come_from_a_file_of_code(tmp_path: Path) -> None:
    (code := tmp_path / "own_layers.py").write_text(OWN)
    names: dict[str, Any] = {}
    exec(OWN, names)
    sequential((2,), names["Twice"]()).save(tmp_path / "own.keras")
    keras.saving.get_custom_objects().clear()
    with pytest.raises(RunError, match=r"own.keras: it has 'Twice', which Keras does not know; .* --code FILE"):
        publish(tmp_path / "own.keras", tmp_path, name="m")
    folder = publish(tmp_path / "own.keras", tmp_path, name="m", code=code)
    assert read_serving_config(folder).twin is not None


@pytest.mark.parametrize(
    ("make", "options", "says"),
    [
        (lambda folder: folder / "none.keras", {}, "no such file or folder"),
        (lambda folder: folder, {}, "a folder without saved_model.pb"),
        (lambda folder: keras_export(folder).parent, {}, "there is one in .*exported"),
        (lambda folder: write(folder / "m.keras"), {}, "m.keras: Keras cannot read it"),
        (lambda folder: write(folder / "m.tflite"), {}, "m.tflite: LiteRT cannot read"),
        (lambda folder: write(folder / "m.tflite"), {"softmax": True}, "a LiteRT model's cannot be changed"),
        (lambda folder: write(folder / "m.onnx"), {}, "another kind of file"),
        (lambda folder: write(folder / "saved_model.pb").parent, {}, "its saved_model.pb cannot be read"),
        (lambda _: object(), {}, "model is a builtins.object, expected a keras.Model"),
        (lambda _: keras.Sequential([layers.Dense(2)]), {}, "the model was never called"),
        (keras_export, {"signature": "other"}, "signature is 'other'; the model has 'serve', 'serving_default'"),
        (logits, {"labels": ["a", "b"]}, "2 labels .* go with no output: output_0"),
        (logits, {"examples": np.zeros((2, 9))}, "'inputs?_?l?a?y?e?r?' has the shape"),
        (hdf5, {"precision": "int8"}, "int8 is proved by how many classes"),
    ],
)
def test_what_cannot_be_imported_is_one_sentence(
    make: Callable[[Path], Any], options: Any, says: str, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=says) as caught:
        publish(make(tmp_path), tmp_path / "models", name="m", **options)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "models").glob("m/*"))


def write(path: Path) -> Path:
    path.write_bytes(b"nothing of the kind")
    return path
