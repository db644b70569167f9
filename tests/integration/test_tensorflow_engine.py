"""The engine `tensorflow` by itself: every kind of value and of graph, what it refuses, threads, memory."""

import functools
import gc
import gzip
import logging
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import psutil
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import config_pb2, saved_model_pb2

from service.engines.base import LoadError, LoadOptions
from service.engines.tensorflow import c_api
from service.engines.tensorflow.engine import SavedModelEngine
from service.engines.tensorflow.session import _config
from service.engines.tensorflow.tensor import _string_memory
from service.errors import GraphError, InvalidRequest
from service.runtime.cgroup import usable_cores
from service.tensors.dtypes import DTYPES, Array
from service.tensors.tf_example import encode_example
from tests.integration import saved_models
from tests.integration.server import SHIPPED

Save = Callable[[Path], object]
Load = Callable[[Save], SavedModelEngine]
CLOTHING = SHIPPED / "clothing" / "1"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Save], Path]:
    """A version that is made but once, and not to be changed."""

    @functools.cache
    def version(save: Save) -> Path:
        save(folder := tmp_path_factory.mktemp("version") / "1")
        return folder

    return version


@pytest.fixture
def load(saved: Callable[[Save], Path]) -> Load:
    return lambda save: SavedModelEngine(saved(save))


def save_identities(path: Path) -> None:
    """A signature of each type."""
    save_identity: saved_models.Function = lambda x: {"x": tf.identity(x)}  # noqa: E731
    specs = {name: saved_models.spec("x", tf.as_dtype(dtype), None) for name, dtype in DTYPES.items()}
    signatures = {name: (save_identity, [spec]) for name, spec in specs.items()}
    saved_models.save(path, save_identity, specs["DT_FLOAT"], **signatures)


def run(engine: SavedModelEngine, signature: str = "serving_default", **inputs: Any) -> dict[str, Any]:
    """The outputs as lists."""
    return {name: array.tolist() for name, array in engine.run(signature, inputs).items()}


def floats(*values: float) -> Array:
    return np.array(values, np.float32)


def texts(*values: bytes) -> Array:
    array = np.empty(len(values), object)
    array[:] = values
    return array


# Values


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_every_type_and_shape_come_back(dtype: str, load: Load) -> None:
    engine = load(save_identities)
    for shape in [(), (0,), (1,), (3,), (0, 4), (2, 0, 3), (2, 3, 4), (1, 1, 1, 1, 1, 1, 2, 1), (70_000,)]:
        numbers = np.arange(np.prod(shape, dtype=int)) % 100
        array = np.array([b"%d" % number for number in numbers.tolist()] if dtype == "DT_STRING" else numbers)
        array = array.astype(DTYPES[dtype]).reshape(shape)
        output = engine.run(dtype, {"x": array})["x"]
        assert (output.dtype, output.shape) == (array.dtype, array.shape)
        assert output.tolist() == array.tolist()


def test_arrays_may_lie_in_memory_in_any_way(load: Load) -> None:
    engine = load(save_identities)
    numbers = np.arange(24, dtype=np.float32)
    for layout, array in {
        "with steps": numbers.reshape(4, 6)[::2, ::-3],
        "transposed": numbers.reshape(4, 6).T,
        "Fortran": np.asfortranarray(numbers.reshape(4, 6)),
        "big-endian": np.arange(24, dtype=">f4"),
        "unaligned and read-only": np.frombuffer(b"." + numbers.tobytes(), np.float32, offset=1),
        "broadcast": np.broadcast_to(np.float32(3), (4, 6)),
        "another type": np.arange(24),
    }.items():
        assert (layout, run(engine, x=array)["x"]) == (layout, array.tolist())


def test_strings_of_every_length_and_any_bytes_come_back(load: Load) -> None:
    engine = load(save_identities)
    given = [bytes(range(length % 256)) * (length // 256 + 1) for length in (0, 1, 15, 16, 21, 22, 23, 24, 25, 4096)]
    given += [b"\0", b"\0" * 22, b"\0" * 23, b"a\0b", b"\xff\xfe", "Füße".encode(), b"", b"m" * 1_000_000]
    for strings in (given, given[::-1]):
        assert run(engine, "DT_STRING", x=texts(*strings)) == {"x": strings}


def test_memory_of_refused_strings_is_given_back(load: Load) -> None:
    engine = load(save_identities)
    before = len(_string_memory)
    for value in ("text", 1, None):
        with pytest.raises(Exception, match=r".+"):
            engine.run("DT_STRING", {"x": np.array([b"long " * 100, value], object)})
    assert len(_string_memory) == before


def test_strings_that_tensorflow_makes_are_read(load: Load) -> None:
    long = b"long " * 20
    assert run(load(saved_models.save_strings), text=texts(b"one two", long)) == {
        "twice": [b"one twoone two", long + long],
        "end": [b"two", b"ng "],
        "words": [[b"one", b"two", *[b""] * 18], [b"long"] * 20],
        "constant": [[b"", b"a"], [b"x" * 22, b"x" * 23]],
        "length": [7, 100],
    }


def test_types_that_numpy_lacks_are_given_out(load: Load) -> None:
    outputs = load(saved_models.save_bfloat16).run("serving_default", {"x": floats(1.5, -2)})
    assert outputs["bfloat16"].dtype == np.dtype(ml_dtypes.bfloat16)
    assert outputs["bfloat16"].astype(np.float32).tolist() == [1.5, -2]
    assert outputs["complex"].tolist() == [1.5 - 1.5j, -2 + 2j]


def test_what_a_model_keeps_outlives_the_request_and_is_no_callers(load: Load) -> None:
    engine = load(saved_models.save_keeper)
    kept: dict[str, Any] = {"number": 0.0, "text": b"nothing"}
    for index in range(50):
        number, text = float(index), b"%d " % index * (index + 1)
        answer = engine.run("serving_default", {"number": np.array(number, np.float32), "text": np.array(text, object)})
        found = len(kept["text"]) if index else -1
        assert {name: array.item() for name, array in answer.items()} == kept | {"found": found}
        answer["number"][...] = 7
        kept = {"number": number, "text": text}


# Graphs


def in_text_form(version: Path) -> Path:
    saved = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    (version / "saved_model.pb").unlink()
    (text := version / "saved_model.pbtxt").write_text(text_format.MessageToString(saved))
    return text


def save_linear_as_text(path: Path) -> None:
    saved_models.save_linear(path)
    in_text_form(path)


@pytest.mark.parametrize(
    ("save", "x", "expected"),
    [
        (saved_models.save_without_inputs, None, {"answer": 42}),
        (save_linear_as_text, [10], {"y": [31]}),
        (saved_models.save_tensorflow_1_variable, [1, 2], {"y": [3, 6]}),
        (saved_models.save_tensorflow_1_control_flow, [1, 2], {"conditional": [2, 3], "eightfold": [8, 16]}),
        (saved_models.save_tensorflow_1_control_flow, [9, 2], {"conditional": [18, 4], "eightfold": [72, 16]}),
        (lambda path: saved_models.save_on_device(path, "/device:GPU:0"), [10], {"y": [30]}),
        (lambda path: saved_models.save_on_device(path, "/device:CPU:1"), [10], {"y": [30]}),
    ],
    ids=["no inputs", "text form", "variable of 1", "condition of 1", "loop of 1", "GPU", "second CPU"],
)
def test_graph_of_any_kind_runs(save: Save, x: list[float] | None, expected: Any, load: Load) -> None:
    inputs: dict[str, Any] = {} if x is None else {"x": floats(*x)}
    answer = run(load(save), **inputs)
    # An output may be an input.
    assert answer.pop("again", x) == x
    assert answer == expected


def test_table_is_filled_from_its_file_in_assets(tmp_path: Path) -> None:
    saved_models.save_vocabulary_file(tmp_path / "1")
    engine = SavedModelEngine(tmp_path / "1")
    assert run(engine, words=texts(b"shoe", "Füße".encode(), b"hat")) == {"id": [1, 2, -1]}
    (file,) = (tmp_path / "1" / "assets").iterdir()
    file.unlink()
    assert refusal(tmp_path / "1") == f"TensorFlow cannot load it: assets/{file.name}; No such file or directory"


def test_shipped_clothing_answers_as_in_tensorflow_itself() -> None:
    pixels = np.random.default_rng(1).random((5, 28, 28), np.float32)
    expected = tf.saved_model.load(str(CLOTHING)).signatures["serving_default"](pixels=tf.constant(pixels))
    (answer,) = SavedModelEngine(CLOTHING).run("serving_default", {"pixels": pixels}).values()
    np.testing.assert_allclose(answer, next(iter(expected.values())).numpy(), atol=1e-6)


def test_configuration_is_the_one_that_tensorflow_reads() -> None:
    config = config_pb2.ConfigProto.FromString(_config("SINGLE_THREADED_EXECUTOR", LoadOptions()))
    assert config.experimental.executor_type == "SINGLE_THREADED_EXECUTOR"
    assert (config.intra_op_parallelism_threads, config.inter_op_parallelism_threads) == (usable_cores(),) * 2


# Refusals


def refusal(version: Path) -> str:
    with pytest.raises(LoadError) as raised:
        SavedModelEngine(version)
    assert str(version) not in str(raised.value)
    return str(raised.value)


def test_damaged_bytes_and_names_of_no_file_are_the_clients_mistake(load: Load, tmp_path: Path) -> None:
    engine = load(saved_models.save_reader)
    (tmp_path / "here.txt").write_text("twelve bytes")

    def read(file: str) -> Any:
        return engine.run("serving_default", {"file": np.array(file.encode(), object)})["length"].tolist()

    def unpack(packed: bytes) -> Any:
        return engine.run("unpack", {"packed": texts(packed)})["length"].tolist()

    assert (read(str(tmp_path / "here.txt")), unpack(gzip.compress(b"hello"))) == (12, [5])
    with pytest.raises(GraphError) as missing:
        read("/srv/secret/none.wav")
    told = "the model refuses this input: none.wav; No such file or directory"
    assert (missing.value.status, str(missing.value)) == (404, told)
    with pytest.raises(InvalidRequest, match="the model refuses this input: inflate"):
        unpack(b"no gzip")


def test_version_without_its_variables_is_not_loaded(tmp_path: Path) -> None:
    version = shutil.copytree(CLOTHING, tmp_path / "1")
    (version / "variables/variables.index").unlink()
    assert refusal(version) == "its variables are missing: it holds no variables/variables.index"


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("saved_model.pb", lambda content: content[: len(content) // 2]),
        ("saved_model.pb", lambda content: b"\xff" * len(content)),
        ("variables/variables.index", lambda content: b"\xff" * len(content)),
        ("variables/variables.data-00000-of-00001", lambda content: content[: len(content) // 2]),
    ],
    ids=["cut graph", "overwritten graph", "overwritten index", "cut variables"],
)
def test_damaged_version_says_so_in_a_sentence(file: str, damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    version = shutil.copytree(CLOTHING, tmp_path / "1")
    (version / file).write_bytes(damage((version / file).read_bytes()))
    assert refusal(version).startswith("TensorFlow cannot load it: ")


def _changed(change: Callable[[Any], object]) -> Save:
    """`change` gets the only graph."""
    return lambda version: saved_models.rewrite(version, lambda saved: change(saved.meta_graphs[0]))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            _changed(lambda graph: setattr(graph.graph_def.node[0], "op", "Frobnicate")),
            "its graph has the operation 'Frobnicate', and TensorFlow itself does not have it; name the library that "
            "does in SERVING_OP_LIBRARIES",
        ),
        (
            _changed(lambda graph: setattr(graph.signature_def["serving_default"].outputs["y"], "name", "nowhere:0")),
            "TensorFlow cannot load it: a signature names the tensor 'nowhere:0', which its graph does not have",
        ),
        (
            _changed(lambda graph: graph.signature_def.clear()),
            "it has no signature that takes and gives plain tensors",
        ),
        (
            _changed(lambda graph: graph.meta_info_def.tags.__setitem__(slice(None), ["train", "gpu"])),
            "it has no graph with the tag 'serve'; tags found: train + gpu",
        ),
        (
            lambda version: saved_models.rewrite(version, lambda saved: saved.ClearField("meta_graphs")),
            "it has no graph with the tag 'serve'; tags found: none, for it holds no graph",
        ),
        (
            lambda version: in_text_form(version).write_text("saved_model_schema_version: one"),
            "TensorFlow cannot load it: Read less bytes than requested (its graph is in saved_model.pbtxt)",
        ),
        (
            lambda version: (version / "saved_model.pb").rename(version / "saved_model.cpb"),
            "its graph is in saved_model.cpb, which the TensorFlow that is installed cannot read; export it anew",
        ),
    ],
)
def test_what_cannot_be_served_says_why(
    change: Save, expected: str, saved: Callable[[Save], Path], tmp_path: Path
) -> None:
    shutil.copytree(saved(saved_models.save_linear), tmp_path / "1")
    change(tmp_path / "1")
    assert refusal(tmp_path / "1") == expected


def test_signature_that_cannot_run_does_not_take_the_others_with_it(
    saved: Callable[[Save], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(saved(saved_models.save_vocabulary), tmp_path / "1")
    _changed(lambda graph: setattr(graph.signature_def["length"].outputs["length"], "name", "nowhere:0"))(
        tmp_path / "1"
    )
    assert list(SavedModelEngine(tmp_path / "1").signatures) == ["serving_default"]
    (record,) = caplog.records
    assert (record.levelno, "cannot run the signature 'length'" in record.message) == (logging.WARNING, True)


def test_older_tensorflow_is_refused(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(c_api, "MIN_VERSION", (2, 99))
    with pytest.raises(LoadError, match=r"is of another version than is needed: 2\.99 or a later 2\.x$"):
        c_api.tensorflow.__wrapped__()
    assert caplog.messages[-1].endswith(f"is version {tf.__version__}")


# Threads


def test_strings_and_refusals_cross_no_threads(load: Load) -> None:
    engine = load(saved_models.save_examples)

    def is_right(index: int) -> bool:
        example = encode_example({"x": float(index)}, "") if index % 3 else b"\xff%d" % index + b"." * index
        try:
            return bool(engine.run("regress", {"inputs": texts(example)})["outputs"].tolist() == [3 * index])
        except InvalidRequest as error:
            return index % 3 == 0 and "Could not parse example" in str(error)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(is_right, range(1_000)))


def test_versions_come_and_go_while_others_run(load: Load) -> None:
    steady, stop = load(saved_models.save_vocabulary), threading.Event()
    words = texts(b"shirt", b"w" * 100)

    def keep_asking() -> int:
        started = 0
        while not stop.is_set():
            assert run(steady, words=words)["id"] == [1, -1]
            started += 1
        return started

    with ThreadPoolExecutor(2) as pool:
        askers = [pool.submit(keep_asking) for _ in range(2)]
        try:
            for _ in range(10):
                assert run(load(saved_models.save_vocabulary), words=words)["upper"] == [b"SHIRT", b"W" * 100]
        finally:
            stop.set()
        assert all(asker.result() > 10 for asker in askers)


def test_version_in_use_stays_until_its_last_request_is_answered(load: Load) -> None:
    engine = load(saved_models.save_linear)
    call = engine._runners["serving_default"]
    del engine
    gc.collect()
    assert call({"x": floats(10)})["y"].tolist() == [31]


# Memory


def megabytes_grown(times: int, act: Callable[[], object]) -> float:
    for _ in range(times // 5):
        act()
    before = psutil.Process().memory_info().rss
    for _ in range(times):
        act()
    return float(psutil.Process().memory_info().rss - before) / 2**20


@pytest.mark.parametrize(
    ("save", "inputs", "is_refused"),
    [
        (saved_models.save_vocabulary, {"words": texts(b"short", b"long " * 2_000)}, False),
        (saved_models.save_logarithm, {"x": np.ones(10_000, np.float32)}, False),
        (saved_models.save_logarithm, {"x": np.full(10_000, 101, np.float32)}, True),
    ],
    ids=["strings", "numbers", "refusals"],
)
def test_requests_leave_no_memory_behind(save: Save, inputs: Any, is_refused: bool, load: Load) -> None:
    """3,000 of them bring and take 30 MB of strings, or 120 MB of numbers."""
    engine = load(save)

    def ask() -> None:
        with pytest.raises(InvalidRequest) if is_refused else nullcontext():
            engine.run("serving_default", inputs)

    assert megabytes_grown(3_000, ask) < 10


def test_version_that_cannot_be_loaded_leaves_no_memory_behind(tmp_path: Path) -> None:
    """5 MB of its 10 are in the graph, and its variables are too short."""
    saved_models.save_large(tmp_path / "1")
    data = tmp_path / "1/variables/variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1_000_000])
    assert megabytes_grown(12, lambda: refusal(tmp_path / "1")) < 50
