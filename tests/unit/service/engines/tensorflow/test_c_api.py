"""Broken installations of TensorFlow. None is needed here."""

import _ctypes
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.engines.base import LoadError
from service.engines.tensorflow.c_api import tensorflow
from service.engines.tensorflow.engine import SavedModelEngine


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package tensorflow, of which only the folder counts: its code must not run."""
    folder = tmp_path / "tensorflow"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise AssertionError('the package was imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    tensorflow.cache_clear()
    yield folder
    tensorflow.cache_clear()


def load_error() -> str:
    with pytest.raises(LoadError) as raised:
        tensorflow()
    return str(raised.value)


@pytest.mark.parametrize("is_module", [False, True], ids=["package", "module"])
def test_without_the_library(package: Path, is_module: bool) -> None:
    if is_module:
        shutil.rmtree(package)
        package.with_suffix(".py").write_text("")
    assert load_error() == (
        "the TensorFlow that is installed brings no library libtensorflow_cc (for Windows there is none); "
        "expected the package tensorflow or tensorflow-cpu, 2.21 or a later 2.x"
    )


@pytest.mark.parametrize("name", ["libtensorflow_cc.so.2", "libtensorflow_cc.2.dylib"])
def test_damaged_library_is_named_without_its_folder(package: Path, name: str) -> None:
    assert "brings no library" in load_error()  # and is not cached
    (package / name).write_bytes(b"not a library")
    message = load_error()
    assert message.startswith(f"the library {name} of the TensorFlow that is installed cannot be used: {name}: ")
    assert str(package) not in message


def test_library_without_the_c_api(package: Path) -> None:
    shutil.copy(_ctypes.__file__, package / "libtensorflow_cc.so.2")
    assert "libtensorflow_cc.so.2: undefined symbol: TF_Version" in load_error()


def test_tensorflow_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    tensorflow.cache_clear()
    with pytest.raises(ModuleNotFoundError) as raised:
        SavedModelEngine(Path("model/1"))
    assert raised.value.name == "tensorflow"
