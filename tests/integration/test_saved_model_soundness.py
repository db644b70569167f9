"""The engine `tensorflow` by itself: many threads, versions that come and go, and the memory that they take."""

import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from service.engines.tensorflow.engine import SavedModelEngine
from service.errors import InvalidRequest
from tests.integration import odd_saved_models, saved_models
from tests.integration.arrays import floats, run, texts

Save = Callable[[Path], None]


@pytest.mark.parametrize(
    "save", [saved_models.save_sum_and_difference, odd_saved_models.save_tensorflow_1_control_flow]
)
def test_many_threads_get_each_its_own_answer(save: Save, tmp_path: Path) -> None:
    save(tmp_path / "1")
    engine = SavedModelEngine(tmp_path / "1")

    def is_right(index: int) -> bool:
        x = np.arange(index % 7 + 1, dtype=np.float32)
        if save is saved_models.save_sum_and_difference:
            return bool(run(engine, a=x, b=np.full(len(x), index, np.int32))["sum"] == (x + 2 * index).tolist())
        return bool(run(engine, x=x)["eightfold"] == (8 * x).tolist())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(is_right, range(2_000)))


def test_strings_and_refusals_cross_no_threads(tmp_path: Path) -> None:
    saved_models.save_examples(tmp_path / "1")
    engine = SavedModelEngine(tmp_path / "1")

    def is_right(index: int) -> bool:
        example = tf.train.Example()
        example.features.feature["x"].float_list.value[:] = [index]
        serialized = example.SerializeToString() if index % 3 else b"\xff%d" % index + b"." * index
        try:
            return bool(engine.run("regress", {"inputs": texts(serialized)})["outputs"].tolist() == [3 * index])
        except InvalidRequest as error:
            return index % 3 == 0 and "Could not parse example" in str(error)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(is_right, range(1_000)))


def test_versions_come_and_go_while_others_run(tmp_path: Path) -> None:
    saved_models.save_vocabulary(tmp_path / "1")
    steady, stop = SavedModelEngine(tmp_path / "1"), threading.Event()
    words = texts(b"shirt", b"w" * 100)

    def keep_asking() -> int:
        asked = 0
        while not stop.is_set():
            assert run(steady, words=words)["id"] == [1, -1]
            asked += 1
        return asked

    with ThreadPoolExecutor(2) as pool:
        askers = [pool.submit(keep_asking) for _ in range(2)]
        try:
            for _ in range(10):
                assert run(SavedModelEngine(tmp_path / "1"), words=words)["upper"] == [b"SHIRT", b"W" * 100]
        finally:
            stop.set()
        assert all(asker.result() > 10 for asker in askers)


def test_a_version_in_use_stays_until_its_last_request_is_answered(tmp_path: Path) -> None:
    saved_models.save_linear(tmp_path / "1")
    engine = SavedModelEngine(tmp_path / "1")
    call = engine._runners["serving_default"]
    del engine
    gc.collect()
    assert call({"x": floats(10)})["y"].tolist() == [31]


GROWTH = """
import sys
from pathlib import Path
import numpy as np, psutil
from service.engines.tensorflow.engine import SavedModelEngine
from service.errors import InvalidRequest

version = Path(sys.argv[1])

def strings(engine, index):
    words = np.empty(3, object)
    words[:] = [b"short", b"long " * 2_000, b"%d" % index]
    engine.run("serving_default", {"words": words})

def numbers(engine, index):
    engine.run("serving_default", {"x": np.ones(10_000, np.float32)})

def refusals(engine, index):
    try:
        engine.run("serving_default", {"x": np.full(10_000, 101, np.float32)})
    except InvalidRequest:
        return
    raise AssertionError("was not refused")

def growth(times, act):
    for index in range(times // 5):
        act(index)
    before = psutil.Process().memory_info().rss
    for index in range(times):
        act(index)
    print((psutil.Process().memory_info().rss - before) / 2**20)
    assert "tensorflow" not in sys.modules
"""


def grown(script: str, version: Path) -> float:
    """Megabytes by which a process that never imports the package tensorflow grew while it did what the script says."""
    command = [sys.executable, "-c", GROWTH + script, str(version)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    # TensorFlow itself writes a line to stderr on some processors.
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.parametrize(
    ("act", "save"),
    [
        ("strings", saved_models.save_vocabulary),
        ("numbers", saved_models.save_logarithm),
        ("refusals", saved_models.save_logarithm),
    ],
)
def test_requests_leave_no_memory_behind(act: str, save: Save, tmp_path: Path) -> None:
    """10,000 of them bring and take 100 MB of strings, or 400 MB of numbers."""
    save(tmp_path / "1")
    script = f"engine = SavedModelEngine(version); growth(10_000, lambda index: {act}(engine, index))"
    assert grown(script, tmp_path / "1") < 20


def test_versions_that_are_unloaded_leave_no_memory_behind(tmp_path: Path) -> None:
    """50 times 10 MB of weights, half of them in the graph."""
    odd_saved_models.save_large(tmp_path / "1")
    script = "growth(50, lambda index: numbers(SavedModelEngine(version), index))"
    assert grown(script, tmp_path / "1") < 100


def test_versions_that_cannot_be_loaded_leave_no_memory_behind(tmp_path: Path) -> None:
    odd_saved_models.save_large(tmp_path / "1")
    data = tmp_path / "1" / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1_000_000])
    script = """
def fail(index):
    try:
        SavedModelEngine(version)
    except Exception as error:
        assert str(error).startswith("TensorFlow cannot load it"), error
    else:
        raise AssertionError("was loaded")
growth(50, fail)
"""
    assert grown(script, tmp_path / "1") < 100
