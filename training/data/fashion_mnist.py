"""Fashion-MNIST, checked: a file that is cut short, swapped or altered is an error that names it."""

import gzip
import hashlib
import math
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from training.console import load_tensorflow
from training.errors import DatasetError

Bytes = npt.NDArray[np.uint8]

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
HOW_TO_GET = (
    "To get Fashion-MNIST: apt-get install dataset-fashion-mnist, or set FASHION_MNIST_DIR to a folder "
    "with its four idx files (plain or .gz), or let Keras download it (needs the network)."
)
LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclass(frozen=True)
class IdxFile:
    """An idx file of unsigned bytes: magic number and sizes (big-endian, 4 bytes each), then the values.

    `sha256` is over the uncompressed content: each package compresses it in its own way.
    """

    shape: tuple[int, ...]
    sha256: str

    @property
    def header(self) -> bytes:
        return struct.pack(f">{1 + len(self.shape)}I", 0x0800 | len(self.shape), *self.shape)

    @property
    def size(self) -> int:
        return len(self.header) + math.prod(self.shape)


FILES = {
    "train-images-idx3-ubyte": IdxFile(
        (60000, 28, 28), "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
    ),
    "train-labels-idx1-ubyte": IdxFile((60000,), "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    "t10k-images-idx3-ubyte": IdxFile(
        (10000, 28, 28), "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
    ),
    "t10k-labels-idx1-ubyte": IdxFile((10000,), "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
}


@dataclass(frozen=True)
class FashionMnist:
    """Grey pictures, 0 black (the ground) to 255 white, [n, 28, 28]; labels 0…9 [n] index into `names`."""

    train_images: Bytes
    train_labels: Bytes
    test_images: Bytes
    test_labels: Bytes
    names: tuple[str, ...] = LABELS


def load() -> FashionMnist:
    """Loads Zalando's pictures (60,000 to train, 10,000 to test) from the first source that has them."""
    folder = local_folder()
    arrays = _download() if folder is None else {name: _read(folder, name) for name in FILES}
    train_images, train_labels, test_images, test_labels = arrays.values()
    return FashionMnist(train_images, train_labels, test_images, test_labels)


def local_folder() -> Path | None:
    """The folder with the files; None if only Keras's download is left."""
    named = os.environ.get("FASHION_MNIST_DIR")
    if named:  # a folder that is named is the only source
        return Path(named)
    keras_home = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    for folder in (DEBIAN_FOLDER, keras_home / "datasets" / "fashion-mnist"):
        if all(_find(folder, name) for name in FILES):
            return folder
    return None


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


def _read(folder: Path, name: str) -> Bytes:
    path = _find(folder, name)
    if path is None:
        raise DatasetError(f"{folder / name}: no such file, nor with .gz. {HOW_TO_GET}")
    opened: BinaryIO | gzip.GzipFile
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as opened:
            # One byte more than expected shows that a file is too long.
            content = opened.read(FILES[name].size + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: damaged, expected a whole gzip file ({error}). {HOW_TO_GET}") from error
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}). {HOW_TO_GET}") from error
    return _checked(content, name, str(path))


def _checked(content: bytes, name: str, where: str) -> Bytes:
    expected = FILES[name]
    header = content[: len(expected.header)]
    digest = hashlib.sha256(content).hexdigest()
    wrong = None
    if header[:4] != expected.header[:4]:
        wrong = f"magic number {header[:4].hex() or 'missing'}, expected {expected.header[:4].hex()}"
    elif len(content) != expected.size:
        size = f"more than {expected.size}" if len(content) > expected.size else len(content)
        wrong = f"{size} bytes uncompressed, expected {expected.size}"
    elif header != expected.header:
        sizes = struct.unpack(f">{len(expected.shape)}I", header[4:])
        wrong = f"sizes {list(sizes)}, expected {list(expected.shape)}"
    elif digest != expected.sha256:
        wrong = f"SHA-256 {digest} uncompressed, expected {expected.sha256}"
    if wrong:
        raise DatasetError(f"{where}: {wrong}. Remove or replace it. {HOW_TO_GET}")
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(expected.shape)


def _download() -> dict[str, Bytes]:
    try:
        load_tensorflow()  # only here, so that reading needs none
        import keras

        (train_images, train_labels), (test_images, test_labels) = keras.datasets.fashion_mnist.load_data()
    except Exception as error:  # Keras raises a bare Exception when the network fails
        reason = " ".join(str(error).split())
        raise DatasetError(f"Keras could not download Fashion-MNIST: {reason}. {HOW_TO_GET}") from error
    # Keras checks no digest, so the arrays become idx files again, which is what the digests are of.
    arrays = dict(zip(FILES, (train_images, train_labels, test_images, test_labels), strict=True))
    return {name: _checked(_idx(array), name, f"Keras's {name}") for name, array in arrays.items()}


def _idx(array: Bytes) -> bytes:
    return IdxFile(array.shape, "").header + array.tobytes()
