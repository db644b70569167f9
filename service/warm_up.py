"""Warming up a version with made-up inputs, and telling by that how long a prediction takes."""

import logging
import time

import numpy as np

from service.engines import Engine
from service.errors import ServingError
from service.signature import DEFAULT_SIGNATURE, Signature
from service.tensors import DTYPES, Array

logger = logging.getLogger(__name__)

RUNS = 3


def warm_up(engine: Engine) -> float:
    """The quickest run of the default signature on one row, in seconds; infinite where no input can be made up.

    The first runs of a model take much longer than those that follow: buffers are planned, kernels chosen.
    """
    signature = engine.signatures.get(DEFAULT_SIGNATURE)
    inputs = signature and made_up_inputs(signature)
    if not inputs:
        return float("inf")
    seconds = []
    for _ in range(RUNS):
        started = time.perf_counter()
        try:
            engine.run(DEFAULT_SIGNATURE, inputs)
        except ServingError as error:
            # Empty strings and zeros need not be what a model takes.
            logger.debug("made-up inputs are refused: %s", error)
            return float("inf")
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def made_up_inputs(signature: Signature) -> dict[str, Array] | None:
    """Zeros and empty strings, one row; None where a rank or a type is unknown."""
    inputs = {}
    for name, spec in signature.inputs.items():
        dtype = DTYPES.get(spec.dtype)
        if spec.shape is None or dtype is None:
            return None
        shape = [1 if size < 0 else size for size in spec.shape]
        inputs[name] = np.full(shape, b"", object) if dtype.kind == "O" else np.zeros(shape, dtype)
    return inputs
