"""SavedModels of what few have: tables kept in files, state, TensorFlow 1, types that NumPy lacks, large weights."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tests.integration.saved_models import rewrite

Spec = tf.TensorSpec


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


def save_endless(path: Path, least_rounds: int = 0) -> None:
    """Goes round a loop as often as its input says, about a million times a second, and at least so often."""

    class Endless(tf.Module):
        @tf.function(input_signature=[Spec([None], tf.float64, name="rounds")])
        def __call__(self, rounds: Any) -> Any:
            last = tf.reduce_max(rounds) + float(least_rounds)
            gone = tf.while_loop(lambda gone: gone < last, lambda gone: (gone + 1.0,), (tf.constant(0.0, tf.float64),))
            return {"gone": tf.zeros_like(rounds) + gone}

    tf.saved_model.save(module := Endless(), str(path), signatures={"serving_default": module.__call__})


def save_abort(path: Path) -> None:
    """Ends the process that runs it, by an op of TensorFlow's own."""

    class Abort(tf.Module):
        @tf.function(input_signature=[Spec([None], tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            with tf.control_dependencies([tf.raw_ops.Abort(error_msg="boom", exit_without_error=False)]):
                return {"y": tf.identity(x)}

    tf.saved_model.save(module := Abort(), str(path), signatures={"serving_default": module.__call__})


def save_counter(path: Path) -> None:
    """Answers each row with how often it was run, this time included."""

    class Counter(tf.Module):
        def __init__(self) -> None:
            self.calls = tf.Variable(0.0)

        @tf.function(input_signature=[Spec([None], tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            return {"call": tf.zeros_like(x) + self.calls.assign_add(1.0)}

    tf.saved_model.save(module := Counter(), str(path), signatures={"serving_default": module.__call__})


def save_reader(path: Path) -> None:
    """Reads the files that its input names; and unpacks what it is given."""

    class Reader(tf.Module):
        @tf.function(input_signature=[Spec([], tf.string, name="file")])
        def read(self, file: Any) -> Any:
            return {"length": tf.strings.length(tf.io.read_file(file))}

        @tf.function(input_signature=[Spec([None], tf.string, name="packed")])
        def unpack(self, packed: Any) -> Any:
            return {"length": tf.strings.length(tf.io.decode_compressed(packed, "GZIP"))}

    module = Reader()
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.read, "unpack": module.unpack})


def save_on_device(path: Path, device: str) -> None:
    """y = 3 x, of TensorFlow 1, all of it on that device."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], name="x")
        y = x * v1.get_variable("w", initializer=3.0, use_resource=True)
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(path), {"x": x}, {"y": y})

    def place(saved: Any) -> None:
        for node in saved.meta_graphs[0].graph_def.node:
            node.device = device

    rewrite(path, place)
