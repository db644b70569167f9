"""A prediction between its request and its answer: what a protocol has decoded, and how it will encode."""

from collections.abc import Callable, Mapping

import msgspec

from service.http import Answer
from service.inference.context import Call
from service.inference.outlier_score import Inferred
from service.inference.version import LoadedVersion
from service.tensors.json import Array


class Prediction(msgspec.Struct, frozen=True):
    """`encode` writes the answer from what came of it; it raises ServingError where the outputs do not fit."""

    loaded: LoadedVersion
    signature_name: str
    inputs: Mapping[str, Array]
    encode: Callable[[Inferred], Answer]
    call: Call
