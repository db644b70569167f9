"""Warming up a version by what it brings, and nothing that is made up: its recorded requests, its example, its samples.

What nobody has sent decides nothing. Zeros may be what a sound model never ends on, an empty string what it refuses,
and every run may leave a mark in a model that has a state. A version that brings nothing is not warmed up, and what it
takes is learned from its first requests (pace.py).
"""

import logging
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from math import inf
from pathlib import Path

from service.engines.base import Engine, LoadError
from service.errors import ServingError
from service.inference.batch import row_count
from service.inference.pace import QUICK_SECONDS
from service.lifecycle.batch_sizes import paying_rows
from service.lifecycle.warm_up_requests import Example, RecordedRequest, example_of, recorded_requests
from service.serving_config import ServingConfig
from service.tensors.json import DTYPES, Array, has_fitting_shape
from service.tensors.signature import Signature

# Then the version serves, however far its warm-up is.
MAX_SECONDS = 30.0
MIN_RUNS = 3
# Of few short runs a busy machine may make all slow.
MAX_RUNS = 10
SECONDS_FOR_MORE_RUNS = 0.02
# What warming up the sizes of batches may take; a model of seconds a row would be AVAILABLE minutes later.
SECONDS_FOR_SIZES = 5.0
# Of a row's inputs; with larger rows batches gain nothing, and what a run of many takes nobody has asked for.
MAX_ROW_BYTES = 2**20
GAIN_ROWS = 8

logger = logging.getLogger(__name__)


class WarmUp:
    """Of one version. `row_seconds`: what a row takes; `batch_gain_seconds`: how much less among eight; `paying_rows`:
    how many rows together pay. Infinity and None for what cannot be told."""

    def __init__(
        self,
        engine: Engine,
        config: ServingConfig,
        version_dir: Path,
        name: str,
        independent: Collection[str],
        max_batch_size: int,
        *,
        judges: bool = True,
    ) -> None:
        """`independent`: the signatures whose rows are. `judges`: whether to find out how many rows pay."""
        self.row_seconds = inf
        self.batch_gain_seconds = inf
        self.paying_rows: int | None = None
        self._engine = engine
        self._config = config
        self._version_dir = version_dir
        self._name = name
        self._independent = independent
        self._max_batch_size = max_batch_size
        self._judges = judges
        self._error: Exception | None = None

    def run(self) -> None:
        """Within MAX_SECONDS; what takes longer goes on beside the requests.

        Raises:
            LoadError: a recorded request fails. TensorFlow Serving does not serve such a version either.
        """
        thread = threading.Thread(target=self._run, name=f"warm-up of {self._name}", daemon=True)
        thread.start()
        thread.join(MAX_SECONDS)
        if self._error is not None:
            raise self._error
        if thread.is_alive():
            logger.warning("%s: its warm-up takes longer than %g s; it serves meanwhile", self._name, MAX_SECONDS)

    def _run(self) -> None:
        try:
            is_replayed = replay(self._engine, self._version_dir)
        except Exception as error:
            self._error = error
            return
        try:
            example = example_of(self._engine, self._config, self._version_dir)
            if example is not None:
                self._try(example)
            elif not is_replayed:
                logger.info(
                    "%s is not warmed up: it brings no recorded requests, and no example or samples in serving.json",
                    self._name,
                )
        # It may be wrong, and is no reason not to serve.
        except Exception as error:
            logger.warning("%s: its example cannot be run (it is served all the same): %s", self._name, error)

    def _try(self, example: Example) -> None:
        if example.signature_name not in self._independent or not row_count(example.inputs):
            # Every further run could leave a mark.
            self._engine.run(example.signature_name, example.inputs)
            return
        self.row_seconds = row_seconds = self._shortest(example, 1)
        is_quick = row_seconds < QUICK_SECONDS
        if is_quick:
            self.batch_gain_seconds = row_seconds - self._shortest(example, GAIN_ROWS) / GAIN_ROWS
        max_rows = self._max_batch_size
        if example.row_bytes > MAX_ROW_BYTES:
            self.paying_rows = max_rows = 1
        elif self._judges:
            self.paying_rows = paying_rows(self._engine, self._name, max_rows, row_seconds, example)
            max_rows = self.paying_rows or max_rows
        if not is_quick or self.batch_gain_seconds > 0:
            self._run_sizes(example, max_rows)

    def _shortest(self, example: Example, rows: int) -> float:
        """The shortest run on so many rows, in seconds. The first runs of a model take much longer than those that
        follow: buffers are planned, kernels chosen."""
        inputs = example.rows(rows)
        seconds: list[float] = []
        while len(seconds) < MIN_RUNS or (len(seconds) < MAX_RUNS and sum(seconds) < SECONDS_FOR_MORE_RUNS):
            started = time.perf_counter()
            self._engine.run(example.signature_name, inputs)
            seconds.append(time.perf_counter() - started)
        return min(seconds)

    def _run_sizes(self, example: Example, max_rows: int) -> None:
        """Batches as they are formed: 2, 4, 8 ... rows and the largest, as far as they take no longer than they may.
        The smallest comes last: an engine that stays prepared for a few sizes is so for those most in use."""
        for rows in sorted({*_powers_of_two(max_rows), max_rows}, reverse=True):
            # A size and all smaller ones cost about twice its own run.
            if 2 * rows * self.row_seconds < SECONDS_FOR_SIZES:
                self._engine.run(example.signature_name, example.rows(rows))


def replay(engine: Engine, version_dir: Path) -> bool:
    """Runs the requests that the version brings for its warm-up; False where it brings none.

    Raises:
        LoadError: one of them fails.
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


def _powers_of_two(most: int) -> Iterator[int]:
    return (2**power for power in range(most.bit_length()))


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
