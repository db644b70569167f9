"""A prediction between its request and its answer: what a protocol has decoded, and how it will encode."""

from collections.abc import Callable, Mapping

import msgspec

from service.messages import Answer
from service.registry import LoadedVersion
from service.tensors import Array


class Prediction(msgspec.Struct, frozen=True):
    """`encode` writes the answer from the signature's outputs; it raises ServingError where they do not fit."""

    loaded: LoadedVersion
    signature_name: str
    inputs: Mapping[str, Array]
    encode: Callable[[Mapping[str, Array]], Answer]
