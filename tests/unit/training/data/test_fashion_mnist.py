import gzip
import hashlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from training.data import fashion_mnist
from training.data.fashion_mnist import IdxFile
from training.errors import DatasetError

IMAGES = "train-images-idx3-ubyte"
ARRAYS = {
    IMAGES: np.arange(3 * 2 * 2, dtype=np.uint8).reshape(3, 2, 2),
    "train-labels-idx1-ubyte": np.array([0, 1, 2], np.uint8),
    "t10k-images-idx3-ubyte": np.full((2, 2, 2), 9, np.uint8),
    "t10k-labels-idx1-ubyte": np.array([3, 4], np.uint8),
}
CONTENTS = {name: IdxFile(array.shape, "").header + array.tobytes() for name, array in ARRAYS.items()}
TINY = {name: IdxFile(array.shape, hashlib.sha256(CONTENTS[name]).hexdigest()) for name, array in ARRAYS.items()}
HOW_TO_GET = "apt-get install dataset-fashion-mnist, or set FASHION_MNIST_DIR"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only source, with tiny files: those that FASHION_MNIST_DIR names."""
    monkeypatch.setattr(fashion_mnist, "FILES", TINY)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("FASHION_MNIST_DIR", str(tmp_path / "named"))
    monkeypatch.setattr(fashion_mnist, "load_tensorflow", lambda: None)
    monkeypatch.setitem(sys.modules, "keras", None)  # `import keras` fails unless a test puts a fake there
    return write(tmp_path / "named")


@pytest.fixture
def unnamed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Debian's and Keras's files lie."""
    monkeypatch.delenv("FASHION_MNIST_DIR")
    return folder.parent


def write(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, content in CONTENTS.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    return folder


def put_keras(arrays: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A Keras that downloads these arrays."""
    train_images, train_labels, *test = arrays.values()
    dataset = SimpleNamespace(load_data=lambda: ((train_images, train_labels), test))
    monkeypatch.setitem(sys.modules, "keras", SimpleNamespace(datasets=SimpleNamespace(fashion_mnist=dataset)))


def error() -> str:
    with pytest.raises(DatasetError) as caught:
        fashion_mnist.load()
    message = str(caught.value)
    assert "\n" not in message
    assert HOW_TO_GET in message
    return message


@pytest.mark.parametrize("form", ["gzip", "another level", "plain"])
def test_compressed_and_plain_files_give_the_same(form: str, folder: Path) -> None:
    if form == "plain":
        (folder / f"{IMAGES}.gz").unlink()
        (folder / IMAGES).write_bytes(CONTENTS[IMAGES])
    elif form == "another level":
        (folder / f"{IMAGES}.gz").write_bytes(gzip.compress(CONTENTS[IMAGES], compresslevel=1, mtime=1))
    data = fashion_mnist.load()
    np.testing.assert_array_equal(data.train_images, ARRAYS[IMAGES])
    assert data.train_images.dtype == np.uint8
    assert data.test_images.shape == (2, 2, 2)
    assert (data.train_labels.tolist(), data.test_labels.tolist()) == ([0, 1, 2], [3, 4])
    assert len(data.names) == 10


def test_missing_file_is_named(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    assert error().startswith(f"{folder / 't10k-labels-idx1-ubyte'}: no such file, nor with .gz")


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"", "magic number missing, expected 00000803"),
        (b"GIF89a", "magic number 47494638, expected 00000803"),
        (CONTENTS[IMAGES][:-1], "27 bytes uncompressed, expected 28"),
        (CONTENTS[IMAGES] + b"\0" * 9, "more than 28 bytes uncompressed, expected 28"),
        (IdxFile((3, 4, 1), "").header + bytes(12), "sizes [3, 4, 1], expected [3, 2, 2]"),
        (CONTENTS[IMAGES][:-1] + b"\0", f"uncompressed, expected {TINY[IMAGES].sha256}"),
    ],
)
def test_damaged_file_is_named_with_what_was_expected(content: bytes, wrong: str, folder: Path) -> None:
    (folder / f"{IMAGES}.gz").write_bytes(gzip.compress(content))
    message = error()
    assert message.startswith(f"{folder / IMAGES}.gz: ")
    assert f"{wrong}. Remove or replace it." in message


@pytest.mark.parametrize("content", [b"not gzip at all", gzip.compress(CONTENTS[IMAGES])[:-9]], ids=["other", "cut"])
def test_broken_gzip_file_is_named(content: bytes, folder: Path) -> None:
    (folder / f"{IMAGES}.gz").write_bytes(content)
    assert error().startswith(f"{folder / IMAGES}.gz: damaged, expected a whole gzip file")


def test_sources_in_order(unnamed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fashion_mnist.local_folder() is None
    cache = write(unnamed / "keras" / "datasets" / "fashion-mnist")
    assert fashion_mnist.local_folder() == cache
    debian = write(unnamed / "debian")
    assert fashion_mnist.local_folder() == debian
    monkeypatch.setenv("FASHION_MNIST_DIR", str(unnamed / "nowhere"))
    assert str(unnamed / "nowhere") in error()


def test_keras_downloads_without_a_whole_local_source(unnamed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = write(unnamed / "keras" / "datasets" / "fashion-mnist")
    (cache / f"{IMAGES}.gz").unlink()
    assert error().startswith("Keras could not download Fashion-MNIST: ")
    put_keras(ARRAYS | {IMAGES: np.zeros((3, 2, 2), np.uint8)}, monkeypatch)
    assert error().startswith(f"Keras's {IMAGES}: SHA-256")
    put_keras(ARRAYS, monkeypatch)
    np.testing.assert_array_equal(fashion_mnist.load().train_images, ARRAYS[IMAGES])


def test_real_data_passes_the_checks() -> None:
    if fashion_mnist.local_folder() is None:
        pytest.skip("Fashion-MNIST is not on this machine (apt-get install dataset-fashion-mnist)")
    data = fashion_mnist.load()
    assert data.train_images.shape == (60_000, 28, 28)
    assert data.test_images.shape == (10_000, 28, 28)
    assert np.bincount(data.train_labels).tolist() == [6_000] * 10
    assert np.bincount(data.test_labels).tolist() == [1_000] * 10
