"""Warming up a version, and telling by that how long a prediction takes."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from service.engines import Engine, LoadError
from service.errors import ServingError
from service.signature import DEFAULT_SIGNATURE, Signature
from service.tensors import DTYPES, Array, has_fitting_shape
from service.warm_up_requests import RecordedRequest, recorded_requests

logger = logging.getLogger(__name__)

LEAST_RUNS = 3
# Of few short runs a busy machine may make all slow, and a version is answered by threads ever after.
MOST_RUNS = 10
SECONDS_FOR_MORE_RUNS = 0.02
# What warming up the sizes of batches may take; a model of seconds a row would be AVAILABLE minutes later.
SECONDS_FOR_SIZES = 5.0


def replay(engine: Engine, version_dir: Path) -> bool:
    """Runs the requests that the version brings for its warm-up; False where it brings none.

    Raises:
        LoadError: one of them fails. TensorFlow Serving does not serve such a version either.
    """
    replayed = False
    for request in recorded_requests(version_dir):
        replayed = True
        inputs = _fitting(engine, request)
        try:
            engine.run(request.signature_name, inputs)
        except ServingError as error:
            raise LoadError(f"{request.where}: {error}") from None
    return replayed


def warm_up(engine: Engine, rows: int = 1) -> float:
    """The quickest run of the default signature on so many rows, in seconds; infinite where no input can be made up.

    The first runs of a model take much longer than those that follow: buffers are planned, kernels chosen.
    """
    inputs = made_up_inputs(engine, rows)
    if not inputs:
        return float("inf")
    seconds: list[float] = []
    while len(seconds) < LEAST_RUNS or (len(seconds) < MOST_RUNS and sum(seconds) < SECONDS_FOR_MORE_RUNS):
        started = time.perf_counter()
        try:
            engine.run(DEFAULT_SIGNATURE, inputs)
        except ServingError as error:
            # Empty strings and zeros need not be what a model takes.
            logger.debug("made-up inputs are refused: %s", error)
            return float("inf")
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def warm_up_sizes(engine: Engine, max_batch_size: int, row_seconds: float) -> None:
    """Runs batches as the batcher forms them: 2, 4, 8 ... rows and max_batch_size, as far as they take no longer than
    they may. The smallest comes last: an engine that stays prepared for a few sizes is so for those most in use."""
    powers = (2**power for power in range(max_batch_size.bit_length()))
    for rows in sorted({*powers, max_batch_size}, reverse=True):
        # A size and all smaller ones cost about twice its own run.
        inputs = made_up_inputs(engine, rows) if 2 * rows * row_seconds < SECONDS_FOR_SIZES else None
        if inputs:
            try:
                engine.run(DEFAULT_SIGNATURE, inputs)
            except ServingError:
                return


def made_up_inputs(engine: Engine, rows: int) -> dict[str, Array] | None:
    """Zeros and empty strings; None where a rank or a type is unknown, or there is no default signature."""
    signature = engine.signatures.get(DEFAULT_SIGNATURE)
    inputs = {}
    for name, spec in signature.inputs.items() if signature else ():
        dtype = DTYPES.get(spec.dtype)
        if spec.shape is None or dtype is None:
            return None
        shape = [1 if size < 0 else size for size in spec.shape]
        if spec.shape[:1] == (-1,):
            shape[0] = rows
        inputs[name] = np.full(shape, b"", object) if dtype.kind == "O" else np.zeros(shape, dtype)
    return inputs


def _fitting(engine: Engine, request: RecordedRequest) -> Mapping[str, Array]:
    """The request's inputs, checked against its signature: an engine takes what it declares. Raises LoadError."""
    signature = engine.signatures.get(request.signature_name)
    if signature is None:
        known = ", ".join(map(repr, sorted(engine.signatures)))
        raise LoadError(f"{request.where} asks for the signature {request.signature_name!r}; there is {known}")
    inputs = request.inputs
    if inputs.keys() == {""} and len(signature.inputs) == 1:
        inputs = {next(iter(signature.inputs)): inputs[""]}
    if expected := _mismatch(inputs, signature):
        raise LoadError(f"{request.where} does not fit the signature {request.signature_name!r}: {expected}")
    return inputs


def _mismatch(inputs: Mapping[str, Array], signature: Signature) -> str | None:
    if inputs.keys() != signature.inputs.keys():
        return f"its inputs are {sorted(inputs)}; expected {sorted(signature.inputs)}"
    for name, array in inputs.items():
        spec = signature.inputs[name]
        if array.dtype != DTYPES.get(spec.dtype) or not has_fitting_shape(array, spec):
            return f"input {name!r} is {array.dtype} {array.shape}; expected {spec.dtype} {spec.shape}"
    return None
