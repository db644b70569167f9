"""SavedModels of every kind that a stranger may drop into the models folder, made with TensorFlow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

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
    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    for name, method in methods.items():
        saved.meta_graphs[0].signature_def[name].method_name = method
    (path / "saved_model.pb").write_bytes(saved.SerializeToString())


def save_halves(path: Path, plus: float = 2.0) -> None:
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


def save_identities(path: Path, dtypes: dict[str, tf.DType]) -> None:
    """A signature for each type, which gives back what it gets."""
    module = tf.Module()
    signatures = {
        name: tf.function(lambda x: {"x": tf.identity(x)}, input_signature=[Spec([None], dtype, name="x")])
        for name, dtype in dtypes.items()
    }
    tf.saved_model.save(module, str(path), signatures=signatures)


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


def save_vocabulary_file(path: Path) -> None:
    """A table that is filled from a file in assets/, which exists nowhere else any more."""
    (words := path.with_suffix(".txt")).write_text("shirt\nshoe\nFüße\n")

    class VocabularyFile(tf.Module):
        def __init__(self) -> None:
            whole, line = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
            lines = tf.lookup.TextFileInitializer(str(words), tf.string, whole, tf.int64, line)
            self.table = tf.lookup.StaticHashTable(lines, -1)

        @tf.function(input_signature=[Spec([None], tf.string, name="words")])
        def __call__(self, words: Any) -> Any:
            return {"id": self.table.lookup(words)}

    tf.saved_model.save(module := VocabularyFile(), str(path), signatures={"serving_default": module.__call__})
    words.unlink()


def save_keeper(path: Path) -> None:
    """Keeps what it is given, in variables and in a table, and gives it out at the next request."""

    class Keeper(tf.Module):
        def __init__(self) -> None:
            self.number = tf.Variable(0.0)
            self.text = tf.Variable("nothing")
            self.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)

        @tf.function(input_signature=[Spec([], tf.float32, name="number"), Spec([], tf.string, name="text")])
        def __call__(self, number: Any, text: Any) -> Any:
            before = {"number": tf.identity(self.number), "text": tf.identity(self.text)}
            found = self.table.lookup(before["text"])
            with tf.control_dependencies([*before.values(), found]):
                self.number.assign(number)
                self.text.assign(text)
                self.table.insert(text, tf.cast(tf.strings.length(text), tf.int64))
            return before | {"found": found}

    tf.saved_model.save(module := Keeper(), str(path), signatures={"serving_default": module.__call__})


def save_strings(path: Path) -> None:
    """Strings that TensorFlow makes: parts of others, long and short, joined and constant."""

    class Strings(tf.Module):
        @tf.function(input_signature=[Spec([None], tf.string, name="text")])
        def __call__(self, text: Any) -> Any:
            return {
                "twice": tf.strings.join([text, text]),
                "end": tf.strings.substr(text, -3, 3),
                "words": tf.strings.split(text).to_tensor(default_value=""),
                "constant": tf.constant([["", "a"], ["x" * 22, "x" * 23]]),
                "length": tf.strings.length(text),
            }

    tf.saved_model.save(module := Strings(), str(path), signatures={"serving_default": module.__call__})


def save_bfloat16(path: Path) -> None:
    """Gives a type that NumPy does not know by itself, and complex numbers."""

    class Bfloat16(tf.Module):
        @tf.function(input_signature=[Spec([None], tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            return {"bfloat16": tf.cast(x, tf.bfloat16), "complex": tf.complex(x, -x)}

    tf.saved_model.save(module := Bfloat16(), str(path), signatures={"serving_default": module.__call__})


def save_without_inputs(path: Path) -> None:
    class WithoutInputs(tf.Module):
        @tf.function(input_signature=[])
        def __call__(self) -> Any:
            return {"answer": tf.constant(42)}

    tf.saved_model.save(module := WithoutInputs(), str(path), signatures={"serving_default": module.__call__})


def save_tensorflow_1_control_flow(path: Path) -> None:
    """Switch, Merge, Enter and Exit; and an output that is an input."""
    v1 = tf.compat.v1
    v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default(), v1.Session() as session:
            x = v1.placeholder(tf.float32, [None], name="x")
            doubled_or_more = v1.cond(tf.reduce_sum(x) > 10.0, lambda: x * 2.0, lambda: x + 1.0)
            shapes = [tf.TensorShape([]), tf.TensorShape([None])]
            _, eightfold = v1.while_loop(
                lambda turn, _: turn < 3, lambda turn, y: (turn + 1, y * 2.0), [tf.constant(0), x], shapes
            )
            outputs = {"conditional": doubled_or_more, "eightfold": eightfold, "again": x}
            v1.saved_model.simple_save(session, str(path), {"x": x}, outputs)
    finally:
        v1.enable_control_flow_v2()


def save_tensorflow_1_variable(path: Path) -> None:
    """A variable without a resource."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], name="x")
        y = x * v1.Variable(3.0, use_resource=False)
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(path), {"x": x}, {"y": y})


def save_large(path: Path) -> None:
    """10 MB of weights, in a variable and in a constant."""

    class Large(tf.Module):
        def __init__(self) -> None:
            self.weights = tf.Variable(tf.ones([1_000, 1_250]))

        @tf.function(input_signature=[Spec([None], tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            constant = tf.constant(np.random.default_rng(1).random((1_000, 1_250), np.float32))
            return {"y": x * tf.reduce_mean(self.weights) + tf.reduce_mean(constant)}

    tf.saved_model.save(module := Large(), str(path), signatures={"serving_default": module.__call__})


def rewrite(path: Path, change: Callable[[Any], None]) -> None:
    """Lets `change` do with the version's tf.SavedModel message what it likes."""
    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    change(saved)
    (path / "saved_model.pb").write_bytes(saved.SerializeToString())
