import io
import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from training.errors import DatasetError
from training.fit import efficientnet

VALUES = np.arange(6, dtype="<f4")


class Called:
    """Pickles as a call of `function`, as PyTorch's tensors do."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class Storage:
    """Pickles as a reference to numbers that follow."""


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """As much of PyTorch as its pickles name."""
    torch: Any = ModuleType("torch")
    torch._utils = ModuleType("torch._utils")
    # A pickle names a class or function by its module and its name there.
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})
    torch._utils._rebuild_tensor_v2 = type("_rebuild_tensor_v2", (), {"__module__": "torch._utils"})
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", torch._utils)
    return torch


def written(torch: Any, shape: Any = (2, 3), strides: Any = (3, 1), offset: int = 0, more: Any = None) -> bytes:
    """A file as PyTorch 1.5 writes it, with one tensor over VALUES."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("storage", torch.FloatStorage, "7", "cpu", 6, None) if isinstance(obj, Storage) else None

    tensor = Called(torch._utils._rebuild_tensor_v2, Storage(), offset, shape, strides, False, OrderedDict())
    file = io.BytesIO()
    for part in (efficientnet.MAGIC_NUMBER, 1001, {"little_endian": True}):
        pickle.dump(part, file, protocol=2)
    Pickler(file, protocol=2).dump(OrderedDict(weight=tensor, more=more))
    pickle.dump(["7"], file, protocol=2)
    return file.getvalue() + (6).to_bytes(8, "little") + VALUES.tobytes()


def read(content: bytes, folder: Path) -> efficientnet.Weights:
    (folder / "weights.pth").write_bytes(content)
    return efficientnet.read_weights(folder / "weights.pth")


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (((2, 3), (3, 1), 0), [[0, 1, 2], [3, 4, 5]]),
        (((3, 2), (1, 3), 0), [[0, 3], [1, 4], [2, 5]]),
        (((2,), (1,), 4), [4, 5]),
    ],
    ids=["by rows", "by columns", "from an offset on"],
)
def test_tensor_keeps_shape_and_order(place: Any, expected: Any, torch: Any, tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(written(torch, *place), tmp_path)["weight"], expected)


@pytest.mark.parametrize("place", [((2, 3), (3, 1), 1), ((2, 3), (4, 1), 0), ((6,), (-1,), 5), ((0,), (1,), 0)])
def test_tensor_beyond_its_storage_is_an_error(place: Any, torch: Any, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="a tensor reaches beyond its storage"):
        read(written(torch, *place), tmp_path)


def test_pickle_that_calls_something_else_is_an_error(torch: Any, tmp_path: Path) -> None:
    made = tmp_path / "made"
    with pytest.raises(DatasetError, match=r"weights\.pth: .*\(it asks for _?io\.open\)"):
        read(written(torch, more=Called(open, str(made), "w")), tmp_path)
    assert not made.exists()


@pytest.mark.parametrize("cut", [0, 10, 100, -1])
def test_truncated_file_is_named(cut: int, torch: Any, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"weights\.pth: not the weights of a PyTorch network"):
        read(written(torch)[:cut], tmp_path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.pth: cannot be read \(No such file or directory\)"):
        efficientnet.read_weights(tmp_path / "none.pth")
