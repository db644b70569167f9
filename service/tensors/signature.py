"""Signatures: a SavedModel's entry points, with their input and output tensors.

Needs no NumPy, so that the first process can import `serving_config`.
"""

from dataclasses import dataclass

import msgspec

DEFAULT_SIGNATURE = "serving_default"


class Quantization(msgspec.Struct, frozen=True):
    """What the integers of a quantized tensor stand for: scale × (integer − zero_point)."""

    scale: float
    zero_point: int


class TensorSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One tensor of a signature.

    `name`: in the graph ("serving_default_pixels:0"). `dtype`: TensorFlow's name ("DT_FLOAT"). `shape`: -1 for a size
    that is free; None if even the rank is free. `is_held`: whether the graph holds inputs to that shape.
    `quantization`: of a tensor whose integers stand for other numbers.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] | None
    is_held: bool = True
    quantization: Quantization | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """Tensors by their names in requests and responses."""

    method_name: str
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
