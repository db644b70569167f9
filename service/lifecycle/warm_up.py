"""Warming up a version by what it brings, and nothing that is made up: its recorded requests, its example, its samples.

What nobody has sent decides nothing. Zeros may be what a sound model never ends on, an empty string what it refuses,
and every run may leave a mark in a model that has a state. A version that brings nothing is not warmed up, and what it
takes is learned from its first requests (pace.py).
"""

import logging
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from service.engines.base import Engine, LoadError
from service.engines.saved_model.tensor_proto import read_tensor
from service.engines.saved_model.wire import NOTHING, as_bytes, as_text, entries, fields, last, submessage
from service.errors import ServingError
from service.inference.batching import row_count
from service.inference.pace import QUICK_SECONDS
from service.serving_config import ASSETS, ServingConfig
from service.settings import Settings
from service.tensors.dtypes import DTYPES, Array, has_fitting_shape
from service.tensors.files import PredictRequest, read_file
from service.tensors.image import picture_batch
from service.tensors.signature import DEFAULT_SIGNATURE, Signature

# What a version brings for its warm-up: recorded requests as TensorFlow Serving reads them, or an example.
#
# Recorded requests are a TFRecord file of serialized tensorflow.serving.PredictionLog. Formats:
# tensorflow/core/lib/io/record_writer.h,
# tensorflow_serving/apis/{prediction_log,predict,classification,regression,input,model}.proto.
#
#     message PredictionLog  { oneof log_type { ClassifyLog classify_log = 2; RegressLog regress_log = 3;
#                              MultiInferenceLog multi_inference_log = 4; SessionRunLog session_run_log = 5;
#                              PredictLog predict_log = 6; PredictStreamedLog predict_streamed_log = 7; } }
#     message PredictLog     { PredictRequest request = 1; }           (ClassifyLog and RegressLog likewise)
#     message PredictRequest { ModelSpec model_spec = 1; map<string, TensorProto> inputs = 2; }
#     message ClassificationRequest { ModelSpec model_spec = 1; Input input = 2; }       (RegressionRequest likewise)
#     message ModelSpec      { string signature_name = 3; }
#     message Input          { oneof kind { ExampleList example_list = 1;
#                              ExampleListWithContext example_list_with_context = 2; } }
#     message ExampleListWithContext { repeated Example examples = 1; Example context = 2; }   (ExampleList without it)

WARM_UP_FILE = "tf_serving_warmup_requests"
# TensorFlow Serving's limit.
MAX_RECORDS = 1000

_CLASSIFY, _REGRESS, _PREDICT = 2, 3, 6
# The body of a v1 request as the signature's inputs. Raises ServingError.
DecodeBody = Callable[[dict[str, Any], Signature], Mapping[str, Array]]
_UNSUPPORTED = {4: "multi_inference_log", 5: "session_run_log", 7: "predict_streamed_log"}


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """`inputs` by name; under the name "" where the request leaves it to the signature, which has one input then."""

    where: str
    signature_name: str
    inputs: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Example:
    """Inputs that fit the signature, with their first row apart: what a batch is made of."""

    signature_name: str
    inputs: Mapping[str, Array]

    def rows(self, count: int) -> dict[str, Array]:
        """The first row so many times. For signatures whose rows are independent."""
        return {name: np.repeat(array[:1], count, axis=0) for name, array in self.inputs.items()}

    @property
    def row_bytes(self) -> int:
        return sum(array[:1].nbytes for array in self.inputs.values())


def example_of(engine: Engine, config: ServingConfig, version_dir: Path, decode: DecodeBody) -> Example | None:
    """The version's example, else its first sample, else None. Raises ServingError, InvalidInput, NotUtf8, OSError."""
    assets = version_dir / ASSETS
    if config.example is not None and "picture" in config.example:
        request = PredictRequest("example", picture=(assets / str(config.example["picture"])).read_bytes())
    elif config.example is not None:
        request = PredictRequest("example", body=config.example)
    elif config.samples:
        sample = config.samples[0]
        if sample.file is None:
            request = PredictRequest("samples[0]", body={"instances": [sample.instance]})
        else:
            request = _sample_file(engine, assets / sample.file)
    else:
        return None
    if request.picture is not None:
        limits = Settings().max_image_pixels, Settings().max_buffered_bytes
        signature = _signature(engine, DEFAULT_SIGNATURE)
        inputs = picture_batch({request.name: request.picture}, signature, config.image, *limits)
        return Example(DEFAULT_SIGNATURE, inputs)
    body = request.body or {}
    name = str(body.get("signature_name", DEFAULT_SIGNATURE))
    return Example(name, decode(body, _signature(engine, name)))


def recorded_requests(version_dir: Path) -> Iterator[RecordedRequest]:
    """None where the version brings none. Kinds that are not served here are passed over.

    Raises:
        LoadError: the file is not what it should be; the message names the record.
    """
    try:
        content = memoryview((version_dir / ASSETS / WARM_UP_FILE).read_bytes())
    except FileNotFoundError:
        return
    for number, record in enumerate(_records(content), start=1):
        where = f"{ASSETS}/{WARM_UP_FILE}, record {number}"
        if number > MAX_RECORDS:
            raise LoadError(f"{ASSETS}/{WARM_UP_FILE} has too many records: at most {MAX_RECORDS} are taken")
        try:
            request = _request(record, where)
        except ValueError as error:
            raise LoadError(f"{where} is no tensorflow.serving.PredictionLog: {error}") from None
        if request is not None:
            yield request


def _records(content: memoryview) -> Iterator[memoryview]:
    """Each is: its length (uint64), 4 bytes of a checksum, the record, 4 bytes of its checksum.

    The checksums (CRC-32C) are not looked at: Python has none, and a damaged record is told by its parts.
    """
    position = 0
    while position < len(content):
        start = position + 12
        length = struct.unpack_from("<Q", content, position)[0] if start <= len(content) else len(content)
        if start + length + 4 > len(content):
            raise LoadError(f"{ASSETS}/{WARM_UP_FILE} is no TFRecord file, or ends in the middle of a record")
        yield content[start : start + length]
        position = start + length + 4


def _request(log: memoryview, where: str) -> RecordedRequest | None:
    kinds = {number: as_bytes(value) for number, value in fields(log) if number != 1}
    if kinds.keys() & _UNSUPPORTED.keys():
        return None
    if len(kinds) != 1 or not kinds.keys() <= {_CLASSIFY, _REGRESS, _PREDICT}:
        raise ValueError("it holds neither a predict_log nor a classify_log nor a regress_log")
    ((kind, message),) = kinds.items()
    request = submessage(message, 1)
    signature_name = as_text(last(submessage(request, 1), 3)) or DEFAULT_SIGNATURE
    if kind == _PREDICT:
        return RecordedRequest(where, signature_name, {name: read_tensor(value) for name, value in entries(request, 2)})
    return RecordedRequest(where, signature_name, {"": _examples(submessage(request, 2))})


def _examples(given: memoryview) -> Array:
    """Serialized tf.train.Examples. One message after the other is both merged, so the context comes in front."""
    kinds = dict(fields(given))
    examples = as_bytes(kinds.get(1) or kinds.get(2) or NOTHING)
    context = bytes(submessage(examples, 2)) if 2 in kinds else b""
    found = [context + bytes(as_bytes(value)) for number, value in fields(examples) if number == 1]
    array = np.empty(len(found), object)
    array[:] = found
    return array


def _sample_file(engine: Engine, path: Path) -> PredictRequest:
    specs = list(_signature(engine, DEFAULT_SIGNATURE).inputs.values())
    rank = len(specs[0].shape) if len(specs) == 1 and specs[0].shape is not None else None
    return read_file(path, rank)


def _signature(engine: Engine, name: str) -> Signature:
    try:
        return engine.signatures[name]
    except KeyError:
        known = ", ".join(map(repr, sorted(engine.signatures)))
        raise LoadError(f"it is for the signature {name!r}; there is {known}") from None


# How many rows together pay: up to which size of a batch a row takes clearly less of the processor than in a smaller.
#
# An engine may keep memory for each size that it has run. Where a row takes as long in a batch as alone, batches gain
# nothing, and every request of a batch waits until all are done.

logger = logging.getLogger(__name__)

# What finding out may take.
MAX_MEASURE_SECONDS = 5.0
# Quicker models take little memory for a size, and with them a request's other work counts, too.
MIN_MEASURED_SECONDS = 0.003
# A size is compared with a quarter of it: what a row gains at all it has gained by then for the most part.
BATCH_SIZE_STEP = 4
# The best of so many runs.
RUNS_PER_BATCH_SIZE = 3
# At most so much of what a row takes in the smaller batch.
MAX_ROW_TIME_RATIO = 0.95


def best_batch_size(
    engine: Engine,
    version: str,
    most: int,
    row_seconds: float,
    example: Example,
    clock: Callable[[], float] = time.thread_time,
) -> int | None:
    """The largest of 1, 4, 16 ... `most` that pays, each compared with the one before; None where that cannot be told.

    `row_seconds`: what a row takes by the wall's clock. `clock`: the processor's time of this thread, which other work
    on the machine hardly changes; but it says nothing about engines that run on threads of their own.
    """
    if not engine.runs_on_caller or row_seconds < MIN_MEASURED_SECONDS:
        return None
    paying, told = 1, ""
    seconds_left = MAX_MEASURE_SECONDS
    try:
        for rows in _batch_sizes(most):
            seconds_left -= RUNS_PER_BATCH_SIZE * (rows + paying) * row_seconds
            if seconds_left < 0:
                return None
            among_many, among_few = _row_seconds(engine, example, (rows, paying), clock)
            told = (
                f"a row takes {among_many * 1e3:.1f} ms in a batch of {rows}, {among_few * 1e3:.1f} in one of {paying}"
            )
            if among_many > MAX_ROW_TIME_RATIO * among_few:
                break
            paying = rows
    finally:
        engine.release()
    if told:
        logger.info("%s: %s; batches are of %d at most", version, told, paying)
    return paying


def _batch_sizes(most: int) -> Iterator[int]:
    rows = BATCH_SIZE_STEP
    while rows < most:
        yield rows
        rows *= BATCH_SIZE_STEP
    if most > 1:
        yield most


def _row_seconds(
    engine: Engine, example: Example, sizes: tuple[int, int], clock: Callable[[], float]
) -> tuple[float, float]:
    """Of a row in batches of these sizes, which are run in turns: what slows one down for a while slows the other."""
    inputs = [example.rows(rows) for rows in sizes]
    best = [float("inf"), float("inf")]
    for _ in range(RUNS_PER_BATCH_SIZE):
        for index, rows in enumerate(sizes):
            started = clock()
            engine.run(example.signature_name, inputs[index])
            best[index] = min(best[index], (clock() - started) / rows)
    return best[0], best[1]


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
        decode: DecodeBody,
        *,
        judges: bool = True,
    ) -> None:
        """`independent`: the signatures whose rows are. `judges`: whether to find out how many rows pay."""
        self.row_seconds = inf
        self.batch_gain_seconds = inf
        self.best_batch_size: int | None = None
        self._engine = engine
        self._config = config
        self._version_dir = version_dir
        self._name = name
        self._independent = independent
        self._max_batch_size = max_batch_size
        self._decode = decode
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
            example = example_of(self._engine, self._config, self._version_dir, self._decode)
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
            self.best_batch_size = max_rows = 1
        elif self._judges:
            self.best_batch_size = best_batch_size(self._engine, self._name, max_rows, row_seconds, example)
            max_rows = self.best_batch_size or max_rows
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
