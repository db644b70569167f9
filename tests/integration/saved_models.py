"""SavedModels of every kind that may be dropped into a models folder, made with TensorFlow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from service.tensors.dtypes import DTYPES

Function = Callable[..., dict[str, Any]]
# A function with the specs of its inputs.
Signature = tuple[Function, list[tf.TensorSpec]]


def spec(name: str, dtype: tf.DType = tf.float32, shape: list[int | None] | None = [None]) -> tf.TensorSpec:  # noqa: B006
    return tf.TensorSpec(shape, dtype, name)


def save(path: Path, function: Function, *specs: tf.TensorSpec, holds: Any = (), **others: Signature) -> None:
    """`function` is the default signature. `holds`: variables and tables that it uses."""
    module = tf.Module()
    module.holds = holds
    functions = {"serving_default": (function, list(specs)), **others}
    signatures = {name: tf.function(each, input_signature=takes) for name, (each, takes) in functions.items()}
    tf.saved_model.save(module, str(path), signatures=signatures)


def rewrite(path: Path, change: Callable[[Any], object]) -> None:
    """Lets `change` do with the version's tf.SavedModel message what it likes."""
    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    change(saved)
    (path / "saved_model.pb").write_bytes(saved.SerializeToString())


def save_linear(path: Path) -> None:
    """y = 3x + 1."""
    save(path, lambda x: {"y": 3.0 * x + 1.0}, spec("x"))


def save_sum_and_difference(path: Path) -> None:
    """Two inputs of different types, two outputs, a loop and a condition inside."""

    def answer(a: Any, b: Any) -> Any:
        total = a
        for _ in tf.range(2):
            total += tf.cast(b, tf.float32)
        difference = a - tf.cast(b, tf.float32) if tf.reduce_sum(a) < 1000.0 else tf.zeros_like(a)
        return {"sum": total, "difference": difference}

    save(path, answer, spec("a"), spec("b", tf.int32))


def save_vocabulary(path: Path) -> None:
    """Strings in; numbers out of a table, strings and bytes out. A second signature beside the default."""
    words = tf.lookup.KeyValueTensorInitializer(["shirt", "shoe"], [1, 2], value_dtype=tf.int64)
    table = tf.lookup.StaticHashTable(words, -1)
    save(
        path,
        lambda words: {"id": table.lookup(words), "upper": tf.strings.upper(words), "raw_bytes": words},
        spec("words", tf.string),
        holds=table,
        length=(lambda words: {"length": tf.strings.length(words)}, [spec("words", tf.string)]),
    )


def save_examples(path: Path) -> None:
    """Signatures that take serialized tf.train.Example, with the methods classify and regress."""

    def classify(inputs: Any) -> Any:
        x = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([2], tf.float32)})["x"]
        return {"classes": tf.tile([["low", "high"]], [tf.shape(x)[0], 1]), "scores": tf.nn.softmax(x)}

    def regress(inputs: Any) -> Any:
        features = {"x": tf.io.FixedLenFeature([], tf.float32), "n": tf.io.FixedLenFeature([], tf.int64, 0)}
        parsed = tf.io.parse_example(inputs, features)
        return {"outputs": 3.0 * parsed["x"] + tf.cast(parsed["n"], tf.float32)}

    def name_methods(saved: Any) -> None:
        for name, method in {"serving_default": "classify", "regress": "regress"}.items():
            saved.meta_graphs[0].signature_def[name].method_name = f"tensorflow/serving/{method}"

    save(path, classify, spec("inputs", tf.string), regress=(regress, [spec("inputs", tf.string)]))
    rewrite(path, name_methods)


def save_logarithm(path: Path) -> None:
    """Answers NaN and infinity; refuses values above 100 itself."""

    def answer(x: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_less_equal(x, 100.0, message="x is above 100")]):
            return {"y": tf.math.log(x)}

    save(path, answer, spec("x"))


def save_logits(path: Path) -> None:
    """Two scores of a picture, far from probabilities: the sum of its pixels, and the same below zero."""
    save(
        path,
        lambda pixels: {"scores": tf.reduce_sum(pixels, [1, 2, 3])[:, None] * [-1.0, 1.0]},
        spec("pixels", shape=[None, 28, 28, 1]),
    )


def save_mean(path: Path) -> None:
    """Two outputs of which one has no row for each of the input's."""
    save(path, lambda x: {"double": 2.0 * x, "mean": tf.reduce_mean(x)}, spec("x"))


def save_one_row(path: Path) -> None:
    """y = x / 2 + 2, of one row as its signature says, and of any as its graph does."""
    save(path, lambda x: {"y": x / 2.0 + 2.0}, spec("x", shape=[1]))


def save_identity(path: Path, dtype: tf.DType, shape: list[int | None] | None = None) -> None:
    """Gives back what it gets. `shape` None: of any rank."""
    save(path, lambda x: {"x": tf.identity(x)}, spec("x", dtype, shape))


def save_kinds(models: Path) -> None:
    """A model of each kind; of `halves` two versions, in folders with zeros in front, as TensorFlow's exporters once
    wrote them."""
    for kind, save_kind in {
        "linear": save_linear,
        "sum_and_difference": save_sum_and_difference,
        "vocabulary": save_vocabulary,
        "examples": save_examples,
        "logarithm": save_logarithm,
        "mean": save_mean,
        "one_row": save_one_row,
    }.items():
        save_kind(models / kind / "1")
    for dtype in (*map(tf.as_dtype, DTYPES.values()), tf.bfloat16):
        save_identity(models / f"identity_{dtype.name}" / "1", dtype)
    save_halves(models / "halves" / "00000123", plus=2.0)
    save_halves(models / "halves" / "00000124", plus=3.0)
    (models / "models.toml").write_text("[models.halves]\nlabels = {old = 123}\n")


def save_counter(path: Path) -> None:
    """Answers each row with how often it was run, this time included."""
    calls = tf.Variable(0.0)
    save(path, lambda x: {"call": tf.zeros_like(x) + calls.assign_add(1.0)}, spec("x"), holds=calls)


# What few have


def save_vocabulary_file(path: Path) -> None:
    """A table that is filled from a file in assets/, which exists nowhere else any more."""
    (words := path.with_suffix(".txt")).write_text("shirt\nshoe\nFüße\n")
    whole, line = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
    lines = tf.lookup.TextFileInitializer(str(words), tf.string, whole, tf.int64, line)
    table = tf.lookup.StaticHashTable(lines, -1)
    save(path, lambda words: {"id": table.lookup(words)}, spec("words", tf.string), holds=table)
    words.unlink()


def save_keeper(path: Path) -> None:
    """Keeps what it is given, in variables and in a table, and gives it out at the next request."""
    kept_number, kept_text = tf.Variable(0.0), tf.Variable("nothing")
    table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)

    def answer(number: Any, text: Any) -> Any:
        before = {"number": tf.identity(kept_number), "text": tf.identity(kept_text)}
        found = table.lookup(before["text"])
        with tf.control_dependencies([*before.values(), found]):
            kept_number.assign(number)
            kept_text.assign(text)
            table.insert(text, tf.cast(tf.strings.length(text), tf.int64))
        return before | {"found": found}

    save(path, answer, spec("number", shape=[]), spec("text", tf.string, []), holds=(kept_number, kept_text, table))


def save_strings(path: Path) -> None:
    """Strings that TensorFlow makes: parts of others, long and short, joined and constant."""

    def answer(text: Any) -> Any:
        return {
            "twice": tf.strings.join([text, text]),
            "end": tf.strings.substr(text, -3, 3),
            "words": tf.strings.split(text).to_tensor(default_value=""),
            "constant": tf.constant([["", "a"], ["x" * 22, "x" * 23]]),
            "length": tf.strings.length(text),
        }

    save(path, answer, spec("text", tf.string))


def save_bfloat16(path: Path) -> None:
    """Gives a type that NumPy does not know by itself, and complex numbers."""
    save(path, lambda x: {"bfloat16": tf.cast(x, tf.bfloat16), "complex": tf.complex(x, -x)}, spec("x"))


def save_without_inputs(path: Path) -> None:
    save(path, lambda: {"answer": tf.constant(42)})


def save_large(path: Path) -> None:
    """10 MB of weights, in a variable and in a constant."""
    weights = tf.Variable(tf.ones([1_000, 1_250]))

    def answer(x: Any) -> Any:
        constant = tf.constant(np.random.default_rng(1).random((1_000, 1_250), np.float32))
        return {"y": x * tf.reduce_mean(weights) + tf.reduce_mean(constant)}

    save(path, answer, spec("x"), holds=weights)


def save_reader(path: Path) -> None:
    """Reads the files that its input names; and unpacks what it is given."""
    save(
        path,
        lambda file: {"length": tf.strings.length(tf.io.read_file(file))},
        spec("file", tf.string, []),
        unpack=(
            lambda packed: {"length": tf.strings.length(tf.io.decode_compressed(packed, "GZIP"))},
            [spec("packed", tf.string)],
        ),
    )


# As TensorFlow 1 wrote them

v1 = tf.compat.v1


def save_halves(path: Path, plus: float) -> None:
    """y = x / 2 + 2: any tensor of the graph may be an input, also one that comes out of the examples; and signatures
    are made for classify and regress."""
    with tf.Graph().as_default(), v1.Session() as session:
        examples = v1.placeholder(tf.string, [None], name="examples")
        features = {"x": tf.io.FixedLenFeature([1], tf.float32), "more": tf.io.FixedLenFeature([1], tf.float32, [0.0])}
        parsed = v1.io.parse_example(examples, features)
        x = tf.identity(parsed["x"], name="x")
        y = tf.identity(x / 2.0 + plus, name="y")
        total = tf.identity(y + parsed["more"], name="total")
        info = v1.saved_model.utils.build_tensor_info
        signatures = {
            name: v1.saved_model.signature_def_utils.build_signature_def(
                {key: info(tensor) for key, tensor in inputs.items()},
                {key: info(tensor) for key, tensor in outputs.items()},
                f"tensorflow/serving/{method}",
            )
            for name, inputs, outputs, method in (
                ("serving_default", {"x": x}, {"y": y}, "predict"),
                ("regress", {"inputs": examples}, {"outputs": total}, "regress"),
                ("classify", {"inputs": examples}, {"scores": total}, "classify"),
            )
        }
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()


def save_tensorflow_1(path: Path, outputs: Callable[[Any], dict[str, Any]]) -> None:
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], name="x")
        answer = outputs(x)
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(path), {"x": x}, answer)


def save_tensorflow_1_control_flow(path: Path) -> None:
    """Switch, Merge, Enter and Exit; and an output that is an input."""

    def outputs(x: Any) -> dict[str, Any]:
        doubled_or_more = v1.cond(tf.reduce_sum(x) > 10.0, lambda: x * 2.0, lambda: x + 1.0)
        shapes = [tf.TensorShape([]), tf.TensorShape([None])]
        _, eightfold = v1.while_loop(
            lambda turn, _: turn < 3, lambda turn, y: (turn + 1, y * 2.0), [tf.constant(0), x], shapes
        )
        return {"conditional": doubled_or_more, "eightfold": eightfold, "again": x}

    v1.disable_control_flow_v2()
    try:
        save_tensorflow_1(path, outputs)
    finally:
        v1.enable_control_flow_v2()


def save_tensorflow_1_variable(path: Path) -> None:
    """A variable without a resource."""
    save_tensorflow_1(path, lambda x: {"y": x * v1.Variable(3.0, use_resource=False)})


def save_on_device(path: Path, device: str) -> None:
    """y = 3x, of TensorFlow 1, all of it on that device."""

    def place(saved: Any) -> None:
        for node in saved.meta_graphs[0].graph_def.node:
            node.device = device

    save_tensorflow_1(path, lambda x: {"y": x * v1.get_variable("w", initializer=3.0, use_resource=True)})
    rewrite(path, place)
