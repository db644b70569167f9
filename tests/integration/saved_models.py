"""SavedModels of every kind that a stranger may drop into the models folder, made with TensorFlow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from service.tensors.dtypes import DTYPES

Spec = tf.TensorSpec


def save_linear(path: Path) -> None:
    """y = 3x + 1."""

    class Linear(tf.Module):
        @tf.function(input_signature=[Spec([None], tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            return {"y": 3.0 * x + 1.0}

    tf.saved_model.save(module := Linear(), str(path), signatures={"serving_default": module.__call__})


def save_sum_and_difference(path: Path) -> None:
    """Two inputs of different types, two outputs, a loop and a condition inside."""

    class SumAndDifference(tf.Module):
        @tf.function(input_signature=[Spec([None], tf.float32, name="a"), Spec([None], tf.int32, name="b")])
        def __call__(self, a: Any, b: Any) -> Any:
            total = a
            for _ in tf.range(2):
                total += tf.cast(b, tf.float32)
            difference = a - tf.cast(b, tf.float32) if tf.reduce_sum(a) < 1000.0 else tf.zeros_like(a)
            return {"sum": total, "difference": difference}

    tf.saved_model.save(module := SumAndDifference(), str(path), signatures={"serving_default": module.__call__})


def save_vocabulary(path: Path) -> None:
    """Strings in; numbers out of a table, strings and bytes out. A second signature beside the default."""

    class Vocabulary(tf.Module):
        def __init__(self) -> None:
            words = tf.lookup.KeyValueTensorInitializer(["shirt", "shoe"], [1, 2], value_dtype=tf.int64)
            self.table = tf.lookup.StaticHashTable(words, -1)

        @tf.function(input_signature=[Spec([None], tf.string, name="words")])
        def look_up(self, words: Any) -> Any:
            return {"id": self.table.lookup(words), "upper": tf.strings.upper(words), "raw_bytes": words}

        @tf.function(input_signature=[Spec([None], tf.string, name="words")])
        def length(self, words: Any) -> Any:
            return {"length": tf.strings.length(words)}

    module = Vocabulary()
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.look_up, "length": module.length})


def save_examples(path: Path) -> None:
    """Signatures that take serialized tf.train.Example, with the methods classify and regress."""

    class Examples(tf.Module):
        @tf.function(input_signature=[Spec([None], tf.string, name="inputs")])
        def classify(self, inputs: Any) -> Any:
            x = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([2], tf.float32)})["x"]
            classes = tf.tile([["low", "high"]], [tf.shape(x)[0], 1])
            return {"classes": classes, "scores": tf.nn.softmax(x)}

        @tf.function(input_signature=[Spec([None], tf.string, name="inputs")])
        def regress(self, inputs: Any) -> Any:
            features = {"x": tf.io.FixedLenFeature([], tf.float32), "n": tf.io.FixedLenFeature([], tf.int64, 0)}
            parsed = tf.io.parse_example(inputs, features)
            return {"outputs": 3.0 * parsed["x"] + tf.cast(parsed["n"], tf.float32)}

    module = Examples()
    signatures = {"serving_default": module.classify, "regress": module.regress}
    tf.saved_model.save(module, str(path), signatures=signatures)
    methods = {"serving_default": "tensorflow/serving/classify", "regress": "tensorflow/serving/regress"}

    def name_methods(saved: Any) -> None:
        for name, method in methods.items():
            saved.meta_graphs[0].signature_def[name].method_name = method

    rewrite(path, name_methods)


def save_one_row(path: Path) -> None:
    """y = x / 2 + 2, of one row as its signature says, and of any as its graph does."""

    class OneRow(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([1], tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            return {"y": x / 2.0 + 2.0}

    tf.saved_model.save(module := OneRow(), str(path), signatures={"serving_default": module.__call__})


def save_halves(path: Path, plus: float) -> None:
    """y = x / 2 + 2 as TensorFlow 1 wrote such models: any tensor of the graph may be an input, also one that comes out
    of the examples; and signatures are made for classify and regress."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        examples = v1.placeholder(tf.string, [None], name="examples")
        features = {"x": tf.io.FixedLenFeature([1], tf.float32), "more": tf.io.FixedLenFeature([1], tf.float32, [0.0])}
        parsed = v1.io.parse_example(examples, features)
        x = tf.identity(parsed["x"], name="x")
        y = tf.identity(x / 2.0 + plus, name="y")
        total = tf.identity(y + parsed["more"], name="total")
        tensors = v1.saved_model.utils.build_tensor_info
        signatures = {
            "serving_default": ({"x": x}, {"y": y}, "predict"),
            "regress": ({"inputs": examples}, {"outputs": total}, "regress"),
            "classify": ({"inputs": examples}, {"scores": total}, "classify"),
        }
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {
                name: v1.saved_model.signature_def_utils.build_signature_def(
                    {key: tensors(tensor) for key, tensor in inputs.items()},
                    {key: tensors(tensor) for key, tensor in outputs.items()},
                    f"tensorflow/serving/{method}",
                )
                for name, (inputs, outputs, method) in signatures.items()
            },
        )
        builder.save()


def save_logarithm(path: Path) -> None:
    """Answers NaN and infinity; refuses values above 100 itself."""

    class Logarithm(tf.Module):
        @tf.function(input_signature=[Spec([None], tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            with tf.control_dependencies([tf.debugging.assert_less_equal(x, 100.0, message="x is above 100")]):
                return {"y": tf.math.log(x)}

    tf.saved_model.save(module := Logarithm(), str(path), signatures={"serving_default": module.__call__})


def save_mean(path: Path) -> None:
    """Two outputs of which one has no row for each of the input's."""

    class Mean(tf.Module):
        @tf.function(input_signature=[Spec([None], tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            return {"double": 2.0 * x, "mean": tf.reduce_mean(x)}

    tf.saved_model.save(module := Mean(), str(path), signatures={"serving_default": module.__call__})


def save_colour(path: Path) -> None:
    """Takes pictures by its shape alone: the mean of each channel."""

    class Colour(tf.Module):
        @tf.function(input_signature=[Spec([None, 8, 8, 3], tf.uint8, name="picture")])
        def __call__(self, picture: Any) -> Any:
            return {"mean": tf.reduce_mean(tf.cast(picture, tf.float32), axis=[1, 2])}

    tf.saved_model.save(module := Colour(), str(path), signatures={"serving_default": module.__call__})


def save_identity(path: Path, dtype: tf.DType, shape: list[int | None] | None = [None]) -> None:  # noqa: B006
    """Gives back what it gets. `shape` None: of any rank."""

    class Identity(tf.Module):
        @tf.function(input_signature=[Spec(shape, dtype, name="x")])
        def __call__(self, x: Any) -> Any:
            return {"x": tf.identity(x)}

    tf.saved_model.save(module := Identity(), str(path), signatures={"serving_default": module.__call__})


def rewrite(path: Path, change: Callable[[Any], None]) -> None:
    """Lets `change` do with the version's tf.SavedModel message what it likes."""
    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    change(saved)
    (path / "saved_model.pb").write_bytes(saved.SerializeToString())


def save_kinds(models: Path) -> None:
    """A model of each kind; of `halves` two versions, in folders with zeros in front, as TensorFlow's exporters once
    wrote them."""
    for kind, save in {
        "linear": save_linear,
        "sum_and_difference": save_sum_and_difference,
        "vocabulary": save_vocabulary,
        "examples": save_examples,
        "logarithm": save_logarithm,
        "mean": save_mean,
        "colour": save_colour,
        "one_row": save_one_row,
    }.items():
        save(models / kind / "1")
    for dtype in (*map(tf.as_dtype, DTYPES.values()), tf.bfloat16):
        save_identity(models / f"identity_{dtype.name}" / "1", dtype, None)
    save_halves(models / "halves" / "00000123", plus=2.0)
    save_halves(models / "halves" / "00000124", plus=3.0)
    (models / "models.toml").write_text("[models.halves]\nlabels = {old = 123}\n")
