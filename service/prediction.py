"""A prediction between its request and its answer: what a protocol has decoded, and how it will encode."""

from collections.abc import Callable, Mapping

import msgspec

from service.calls import Call
from service.messages import Answer
from service.outlier_score import Inferred
from service.registry import LoadedVersion
from service.tensors import Array


class Prediction(msgspec.Struct, frozen=True):
    """`encode` writes the answer from what came of it; it raises ServingError where the outputs do not fit."""

    loaded: LoadedVersion
    signature_name: str
    inputs: Mapping[str, Array]
    encode: Callable[[Inferred], Answer]
    call: Call
