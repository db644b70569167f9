import gzip
import hashlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

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


@pytest.fixture(autouse=True)
def tiny_files_and_no_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fashion_mnist, "FILES", TINY)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv("FASHION_MNIST_DIR", raising=False)
    monkeypatch.setitem(sys.modules, "keras", None)  # `import keras` fails unless a test puts a fake there


def write(folder: Path, changed: dict[str, bytes] | None = None, *, compress: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (CONTENTS | (changed or {})).items():
        if compress:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def fake_keras(arrays: dict[str, np.ndarray]) -> ModuleType:
    train_images, train_labels, test_images, test_labels = arrays.values()
    keras = ModuleType("keras")
    loaded = (train_images, train_labels), (test_images, test_labels)
    vars(keras)["datasets"] = SimpleNamespace(fashion_mnist=SimpleNamespace(load_data=lambda: loaded))
    return keras


def message_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FASHION_MNIST_DIR", str(folder))
    with pytest.raises(DatasetError) as caught:
        fashion_mnist.load()
    message = str(caught.value)
    assert "\n" not in message
    assert "apt-get install dataset-fashion-mnist, or set FASHION_MNIST_DIR" in message
    return message


@pytest.mark.parametrize("compress", [True, False])
def test_compressed_and_plain_files_give_the_same(
    compress: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASHION_MNIST_DIR", str(write(tmp_path / "here", compress=compress)))
    data = fashion_mnist.load()
    np.testing.assert_array_equal(data.train_images, ARRAYS[IMAGES])
    assert data.train_labels.tolist() == [0, 1, 2]
    assert data.test_images.shape == (2, 2, 2)
    assert data.test_labels.tolist() == [3, 4]
    assert data.train_images.dtype == np.uint8
    assert len(data.names) == 10


def test_compression_level_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "here")
    (folder / f"{IMAGES}.gz").write_bytes(gzip.compress(CONTENTS[IMAGES], compresslevel=1, mtime=1))
    monkeypatch.setenv("FASHION_MNIST_DIR", str(folder))
    assert fashion_mnist.load().train_images.shape == (3, 2, 2)


def test_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "here")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    message = message_for(folder, monkeypatch)
    assert message.startswith(f"{folder / 't10k-labels-idx1-ubyte'}: no such file, nor with .gz")


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
    ids=["empty", "another format", "cut short", "too long", "another shape", "one byte changed"],
)
def test_damaged_file_is_named_with_what_was_expected(
    content: bytes, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "here", {IMAGES: content})
    message = message_for(folder, monkeypatch)
    assert message.startswith(f"{folder / IMAGES}.gz: ")
    assert wrong in message


@pytest.mark.parametrize("content", [b"not gzip at all", gzip.compress(CONTENTS[IMAGES])[:-9]], ids=["other", "cut"])
def test_broken_gzip_file_is_named(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "here")
    (folder / f"{IMAGES}.gz").write_bytes(content)
    assert message_for(folder, monkeypatch).startswith(f"{folder / IMAGES}.gz: damaged, expected a whole gzip file")


def test_named_folder_is_the_only_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "debian")
    write(tmp_path / "keras" / "datasets" / "fashion-mnist")
    assert str(tmp_path / "nowhere") in message_for(tmp_path / "nowhere", monkeypatch)


def test_debian_package_comes_before_the_cache(tmp_path: Path) -> None:
    cache = write(tmp_path / "keras" / "datasets" / "fashion-mnist")
    assert fashion_mnist.local_folder() == cache
    debian = write(tmp_path / "debian")
    assert fashion_mnist.local_folder() == debian


def test_incomplete_cache_is_left_to_keras(tmp_path: Path) -> None:
    cache = write(tmp_path / "keras" / "datasets" / "fashion-mnist")
    (cache / f"{IMAGES}.gz").unlink()
    assert fashion_mnist.local_folder() is None


def test_damaged_cache_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "keras" / "datasets" / "fashion-mnist", {IMAGES: b"nothing"})
    with pytest.raises(DatasetError, match="Remove or replace it"):
        fashion_mnist.load()


def test_keras_downloads_without_a_local_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keras", fake_keras(ARRAYS))
    np.testing.assert_array_equal(fashion_mnist.load().train_images, ARRAYS[IMAGES])


def test_download_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keras", fake_keras(ARRAYS | {IMAGES: np.zeros((3, 2, 2), np.uint8)}))
    with pytest.raises(DatasetError, match=f"Keras's {IMAGES}: SHA-256"):
        fashion_mnist.load()


def test_without_any_source_the_error_says_how_to_get_it() -> None:
    with pytest.raises(DatasetError, match=r"Keras could not download Fashion-MNIST: .*apt-get install"):
        fashion_mnist.load()


def test_real_data_passes_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    if fashion_mnist.local_folder() is None:
        pytest.skip("Fashion-MNIST is not on this machine (apt-get install dataset-fashion-mnist)")
    data = fashion_mnist.load()
    assert data.train_images.shape == (60_000, 28, 28)
    assert data.test_images.shape == (10_000, 28, 28)
    assert np.bincount(data.train_labels).tolist() == [6_000] * 10
    assert np.bincount(data.test_labels).tolist() == [1_000] * 10
