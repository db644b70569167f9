"""The engine `tensorflow` by itself: every kind of value and of graph."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from service.engines.tensorflow.engine import SavedModelEngine
from service.engines.tensorflow.session import _config
from service.engines.tensorflow.tensor import _string_memory
from service.runtime.cgroup import usable_cores
from service.tensors.dtypes import DTYPES, Array
from tests.integration import odd_saved_models, saved_models
from tests.integration.arrays import floats, run, texts
from tests.integration.conftest import SHIPPED

Save = Callable[[Path], None]


def load(save: Save, folder: Path) -> SavedModelEngine:
    save(folder / "1")
    return SavedModelEngine(folder / "1")


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_every_type_and_shape_come_back_as_they_were(dtype: str, tmp_path: Path) -> None:
    engine = load(lambda path: saved_models.save_identity(path, tf.as_dtype(DTYPES[dtype]), None), tmp_path)
    for shape in [(), (0,), (1,), (3,), (0, 4), (2, 0, 3), (2, 3, 4), (1, 1, 1, 1, 1, 1, 2, 1), (70_000,)]:
        numbers = np.arange(np.prod(shape, dtype=int)) % 100
        array = np.array([b"%d" % number for number in numbers.tolist()] if dtype == "DT_STRING" else numbers)
        array = array.astype(DTYPES[dtype]).reshape(shape)
        output = engine.run("serving_default", {"x": array})["x"]
        assert (output.dtype, output.shape) == (array.dtype, array.shape)
        assert output.tolist() == array.tolist()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::-3],
        np.arange(24, dtype=np.float32).reshape(4, 6).T,
        np.asfortranarray(np.arange(24, dtype=np.float32).reshape(4, 6)),
        np.arange(24, dtype=">f4"),
        np.frombuffer(b"." + np.arange(24, dtype=np.float32).tobytes(), np.float32, offset=1),
        np.broadcast_to(np.float32(3), (4, 6)),
        np.arange(24),
    ],
    ids=["with steps", "transposed", "Fortran", "big-endian", "unaligned and read-only", "broadcast", "another type"],
)
def test_arrays_may_lie_in_memory_as_they_like(array: Array, tmp_path: Path) -> None:
    engine = load(lambda path: saved_models.save_identity(path, tf.float32, None), tmp_path)
    assert engine.run("serving_default", {"x": array})["x"].tolist() == array.tolist()


def test_strings_of_every_length_and_any_bytes_come_back_as_they_were(tmp_path: Path) -> None:
    engine = load(lambda path: saved_models.save_identity(path, tf.string), tmp_path)
    given = [bytes(range(length % 256)) * (length // 256 + 1) for length in (0, 1, 15, 16, 21, 22, 23, 24, 25, 4096)]
    given += [b"\0", b"\0" * 22, b"\0" * 23, b"a\0b", b"\xff\xfe", "Füße".encode(), b"", b"m" * 1_000_000]
    assert run(engine, x=texts(*given)) == {"x": given}
    assert run(engine, x=texts(*given[::-1])) == {"x": given[::-1]}


def test_strings_that_tensorflow_makes_are_read(tmp_path: Path) -> None:
    engine = load(odd_saved_models.save_strings, tmp_path)
    long = b"long " * 20
    assert run(engine, text=texts(b"one two", long)) == {
        "twice": [b"one twoone two", long + long],
        "end": [b"two", b"ng "],
        "words": [[b"one", b"two", *[b""] * 18], [b"long"] * 20],
        "constant": [[b"", b"a"], [b"x" * 22, b"x" * 23]],
        "length": [7, 100],
    }


def test_what_is_no_string_is_refused_and_its_memory_given_back(tmp_path: Path) -> None:
    engine = load(lambda path: saved_models.save_identity(path, tf.string), tmp_path)
    before = len(_string_memory)
    for value in ("text", 1, None):
        with pytest.raises(Exception, match=r".+"):
            engine.run("serving_default", {"x": np.array([b"long " * 100, value], object)})
    assert len(_string_memory) == before
    assert run(engine, x=texts(b"shirt")) == {"x": [b"shirt"]}


def test_what_a_model_keeps_outlives_the_request_that_brought_it(tmp_path: Path) -> None:
    engine = load(odd_saved_models.save_keeper, tmp_path)
    kept: dict[str, Any] = {"number": 0.0, "text": b"nothing"}
    for index in range(50):
        number, text = float(index), b"%d " % index * (index + 1)
        answer = run(engine, number=np.array(number, np.float32), text=np.array(text, object))
        assert answer == kept | {"found": len(kept["text"]) if index else -1}
        kept = {"number": number, "text": text}


def test_an_answer_does_not_change_when_the_next_request_comes(tmp_path: Path) -> None:
    engine = load(odd_saved_models.save_keeper, tmp_path)
    first = engine.run("serving_default", {"number": np.array(1, np.float32), "text": np.array(b"one", object)})
    run(engine, number=np.array(2, np.float32), text=np.array(b"two", object))
    assert (first["number"].item(), first["text"].item()) == (0.0, b"nothing")
    first["number"][...] = 7  # it is the caller's own
    assert run(engine, number=np.array(3, np.float32), text=np.array(b"", object))["number"] == 2.0


def test_types_that_numpy_does_not_know_are_given_out(tmp_path: Path) -> None:
    outputs = load(odd_saved_models.save_bfloat16, tmp_path).run("serving_default", {"x": floats(1.5, -2)})
    assert outputs["bfloat16"].dtype == np.dtype(ml_dtypes.bfloat16)
    assert outputs["bfloat16"].astype(np.float32).tolist() == [1.5, -2]
    assert outputs["complex"].tolist() == [1.5 - 1.5j, -2 + 2j]


def test_a_table_is_filled_from_its_file_in_assets(tmp_path: Path) -> None:
    engine = load(odd_saved_models.save_vocabulary_file, tmp_path)
    assert run(engine, words=texts(b"shoe", "Füße".encode(), b"hat")) == {"id": [1, 2, -1]}


def test_a_signature_may_have_no_inputs(tmp_path: Path) -> None:
    assert run(load(odd_saved_models.save_without_inputs, tmp_path)) == {"answer": 42}


def test_loops_and_conditions_of_tensorflow_1_run(tmp_path: Path) -> None:
    engine = load(odd_saved_models.save_tensorflow_1_control_flow, tmp_path)
    assert run(engine, x=floats(1, 2)) == {"conditional": [2, 3], "eightfold": [8, 16], "again": [1, 2]}
    assert run(engine, x=floats(9, 2)) == {"conditional": [18, 4], "eightfold": [72, 16], "again": [9, 2]}


def test_variables_of_tensorflow_1_run(tmp_path: Path) -> None:
    assert run(load(odd_saved_models.save_tensorflow_1_variable, tmp_path), x=floats(1, 2)) == {"y": [3, 6]}


def test_the_shipped_models_answer_as_in_tensorflow_itself() -> None:
    pixels = np.random.default_rng(1).random((5, 28, 28), np.float32)
    version = SHIPPED / "clothing" / "1"
    expected = tf.saved_model.load(str(version)).signatures["serving_default"](pixels=tf.constant(pixels))
    (answer,) = SavedModelEngine(version).run("serving_default", {"pixels": pixels}).values()
    np.testing.assert_allclose(answer, next(iter(expected.values())).numpy(), atol=1e-6)


def test_the_configuration_is_the_one_that_tensorflow_reads() -> None:
    config = config_pb2.ConfigProto.FromString(_config("SINGLE_THREADED_EXECUTOR"))
    assert config.experimental.executor_type == "SINGLE_THREADED_EXECUTOR"
    assert (config.intra_op_parallelism_threads, config.inter_op_parallelism_threads) == (usable_cores(),) * 2
