"""BasicMotions, read from the files in the package `aeon` and checked; aeon's code is not run."""

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.errors import DatasetError

Motions = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

FOLDER = Path("datasets", "data", "BasicMotions")  # in the package
FILES = {
    "BasicMotions_TRAIN.ts": "8dc43cc6306cb679c888c01e26f91772ac4441a916da43bac8b79734a538b9d6",
    "BasicMotions_TEST.ts": "79213102bc6fca1a398ad98ce1185dff0208fa3d1465e687f48288946b0ff8dc",
}
CHANNELS = tuple(f"{what} {axis}" for what in ("acceleration", "rotation") for axis in "xyz")
HOW_TO_GET = "To get BasicMotions: pip install --no-deps aeon (its dependencies are not needed)."


@dataclass(frozen=True)
class BasicMotions:
    """Recordings [n, 100 steps of 0.1 s, 6]: acceleration along x, y and z, then rotation about them.

    Labels 0…3 [n] index into `names`, which are in the order of the files' header.
    """

    train_motions: Motions
    train_labels: Labels
    test_motions: Motions
    test_labels: Labels
    names: tuple[str, ...]


def load() -> BasicMotions:
    """Loads 40 recordings to train and 40 to test."""
    folder = local_folder()
    if folder is None:
        raise DatasetError(f"BasicMotions is not on this machine: aeon is not installed. {HOW_TO_GET}")
    train, test = (decode(_read(folder / name, digest)) for name, digest in FILES.items())
    return BasicMotions(train[0], train[1], test[0], test[1], train[2])


def local_folder() -> Path | None:
    """The folder of the files in the installed aeon; None without aeon."""
    spec = find_spec("aeon")  # finds, does not import
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / FOLDER


def _read(path: Path, sha256: str) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}). {HOW_TO_GET}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise DatasetError(f"{path}: SHA-256 {digest}, expected {sha256}. {HOW_TO_GET}")
    return content.decode()


def decode(text: str) -> tuple[Motions, Labels, tuple[str, ...]]:
    """Decodes a .ts file: # comments, @ header, then a recording a line: its channels and its class, between colons."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    header = dict(line[1:].partition(" ")[::2] for line in lines if line.startswith("@"))
    _, *names = header["classLabel"].split()  # after `true`: the classes have names
    motions, labels = [], []
    for line in lines[len(header) :]:
        *channels, name = line.split(":")
        motions.append([[float(value) for value in channel.split(",")] for channel in channels])
        labels.append(names.index(name))
    return np.array(motions, np.float32).transpose(0, 2, 1), np.array(labels), tuple(names)
