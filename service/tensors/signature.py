"""Signatures: a SavedModel's entry points, with the tensors that they take and give. Needs no NumPy."""

from dataclasses import dataclass

import msgspec

DEFAULT_SIGNATURE = "serving_default"


class TensorSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One tensor of a signature.

    `name` is the tensor's name in the graph ("serving_default_pixels:0"), `dtype` TensorFlow's name of its
    type ("DT_FLOAT"), `shape` its sizes with -1 for one that is free; None where even the rank is free. `is_held`
    is False where nothing in the graph holds an input to that shape.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] | None
    is_held: bool = True


@dataclass(frozen=True, slots=True)
class Signature:
    """The tensors by the names that requests and answers use."""

    method_name: str
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
