"""Reads the weights that PyTorch before 1.6 wrote (a row of pickles, then the numbers), without PyTorch."""

import pickle
from collections import OrderedDict
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.errors import DatasetError

Weights = dict[str, npt.NDArray[Any]]

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
STORAGES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


def read(path: Path) -> Weights:
    """Arrays by the names of a state dictionary. DatasetError where the file is something else."""
    try:
        with path.open("rb") as file:
            return _read(file)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # damaged pickles fail in many ways
        raise DatasetError(f"{path}: not the weights of a PyTorch network ({error})") from error


def _read(file: BufferedReader) -> Weights:
    magic_number, protocol, system = (_Unpickler(file, {}).load() for _ in range(3))
    if magic_number != MAGIC_NUMBER or protocol != 1001 or not system["little_endian"]:
        raise ValueError("another format")
    storages: dict[str, npt.NDArray[Any]] = {}
    tensors = _Unpickler(file, storages).load()
    for key in _Unpickler(file, {}).load():
        storage = storages[key]
        if int.from_bytes(file.read(8), "little") != storage.size or file.readinto(storage.data) != storage.nbytes:
            raise ValueError("cut short")
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


class _Unpickler(pickle.Unpickler):
    """A pickle can call anything that can be imported; here it gets the four names that weights need."""

    def __init__(self, file: BufferedReader, storages: dict[str, npt.NDArray[Any]]) -> None:
        super().__init__(file)
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "collections", "OrderedDict":
                return OrderedDict
            case "torch._utils", "_rebuild_tensor_v2":
                return _tensor
            case "torch", "FloatStorage" | "LongStorage":
                return STORAGES[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> npt.NDArray[Any]:
        """A storage: an empty array now, which is filled when the numbers are read."""
        _, dtype, key, _, count, _ = pid
        return self.storages.setdefault(key, np.empty(count, dtype))


def _tensor(storage: npt.NDArray[Any], offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> Any:
    """A view into the storage. `strides` count numbers, not bytes, and must not lead out of it."""
    last = offset + sum((count - 1) * stride for count, stride in zip(shape, strides, strict=True))
    if min((offset, *strides)) < 0 or min(shape, default=1) < 1 or last >= storage.size:
        raise ValueError("a tensor reaches beyond its storage")
    bytes_apart = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, bytes_apart, writeable=False)
