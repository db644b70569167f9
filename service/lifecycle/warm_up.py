"""Warm-up: runs a version on the requests, the example or the samples that it brings.

Made-up inputs are never run: a sound model may loop forever on zeros or fail on an empty string, and each run may
change a model with state. A version that brings nothing is not warmed up; its pace is learned from its first requests
(service/inference/pace.py).
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
from service.errors import ServingError
from service.inference.batching import row_count
from service.inference.pace import QUICK_SECONDS
from service.serving_config import ASSETS, ServingConfig
from service.settings import Settings
from service.tensors.dtypes import DTYPES, Array, has_fitting_shape
from service.tensors.files import PredictRequest, read_file
from service.tensors.image import picture_batch
from service.tensors.protobuf import as_bytes, as_text, entries, fields, last, submessage
from service.tensors.signature import DEFAULT_SIGNATURE, Signature
from service.tensors.tensor_proto import read_tensor
from service.tensors.tf_example import serialized_examples

# After this the version serves, finished or not.
MAX_SECONDS = 30.0
MIN_RUNS = 3
# On a busy machine a few short runs may all be slow.
MAX_RUNS = 10
MAX_REPEAT_SECONDS = 0.02
# For running all batch sizes; a model of seconds a row would otherwise be AVAILABLE minutes later.
MAX_SIZES_SECONDS = 5.0
# Of the inputs of a row. Batches of larger rows gain nothing, and cost time and memory.
MAX_ROW_BYTES = 2**20
# Rows in the batch by which the gain is measured.
GAIN_ROWS = 8

# For finding the best batch size.
MAX_MEASURE_SECONDS = 5.0
# Quicker models need little memory per batch size, and the rest of a request weighs as much as their runs.
MIN_MEASURED_SECONDS = 0.003
# Each size is compared with a quarter of it: most of what a row can gain it has gained by then.
BATCH_SIZE_STEP = 4
# The best of these counts.
RUNS_PER_BATCH_SIZE = 3
# How much of a row's time in the smaller batch it may take in the larger one.
MAX_ROW_TIME_RATIO = 0.95

WARM_UP_FILE = "tf_serving_warmup_requests"
# TensorFlow Serving's limit.
MAX_RECORDS = 1000

# The body of a v1 request as the signature's inputs. Raises ServingError.
DecodeBody = Callable[[dict[str, Any], Signature], Mapping[str, Array]]

logger = logging.getLogger(__name__)


class WarmUp:
    """The warm-up of one version, and what it has measured.

    `row_seconds`: of a run on one row. `batch_gain_seconds`: how much less a row takes in a batch of 8. Both are
    infinite if unknown. `best_batch_size`: None if unknown.
    """

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
        finds_batch_size: bool = True,
    ) -> None:
        """`independent`: the signatures whose rows may be batched."""
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
        self._finds_batch_size = finds_batch_size
        self._error: Exception | None = None

    def run(self) -> None:
        """Returns after MAX_SECONDS at the latest; the rest goes on beside the requests.

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
            example = read_example(self._engine, self._config, self._version_dir, self._decode)
            if example is not None:
                self._run_example(example)
            elif not is_replayed:
                logger.info(
                    "%s is not warmed up: it brings no recorded requests, and no example or samples in serving.json",
                    self._name,
                )
        # A wrong example is no reason not to serve the version.
        except Exception as error:
            logger.warning("%s: its example cannot be run (it is served all the same): %s", self._name, error)

    def _run_example(self, example: "Example") -> None:
        if example.signature_name not in self._independent or not row_count(example.inputs):
            # Once only: every run may change a model with state.
            self._engine.run(example.signature_name, example.inputs)
            return
        self.row_seconds = row_seconds = self._shortest_run(example, 1)
        is_quick = row_seconds < QUICK_SECONDS
        if is_quick:
            self.batch_gain_seconds = row_seconds - self._shortest_run(example, GAIN_ROWS) / GAIN_ROWS
        max_rows = self._max_batch_size
        if example.row_bytes > MAX_ROW_BYTES:
            self.best_batch_size = max_rows = 1
        elif self._finds_batch_size:
            self.best_batch_size = best_batch_size(self._engine, self._name, max_rows, row_seconds, example)
            max_rows = self.best_batch_size or max_rows
        if not is_quick or self.batch_gain_seconds > 0:
            self._run_sizes(example, max_rows)

    def _shortest_run(self, example: "Example", rows: int) -> float:
        """In seconds. The first runs take much longer than later ones: the engine plans buffers and picks kernels."""
        inputs = example.rows(rows)
        seconds: list[float] = []
        while len(seconds) < MIN_RUNS or (len(seconds) < MAX_RUNS and sum(seconds) < MAX_REPEAT_SECONDS):
            started = time.perf_counter()
            self._engine.run(example.signature_name, inputs)
            seconds.append(time.perf_counter() - started)
        return min(seconds)

    def _run_sizes(self, example: "Example", max_rows: int) -> None:
        """Batches of 1, 2, 4, 8 ... and `max_rows` rows, the largest first: an engine that stays prepared only for the
        last few sizes keeps the smallest, which are the most frequent."""
        powers = (2**power for power in range(max_rows.bit_length()))
        for rows in sorted({*powers, max_rows}, reverse=True):
            # A size and all smaller ones take about twice its own run.
            if 2 * rows * self.row_seconds < MAX_SIZES_SECONDS:
                self._engine.run(example.signature_name, example.rows(rows))


@dataclass(frozen=True, slots=True)
class Example:
    """Inputs that fit the signature."""

    signature_name: str
    inputs: Mapping[str, Array]

    def rows(self, count: int) -> dict[str, Array]:
        """A batch of the first row, `count` times. For signatures whose rows are independent."""
        return {name: np.repeat(array[:1], count, axis=0) for name, array in self.inputs.items()}

    @property
    def row_bytes(self) -> int:
        return sum(array[:1].nbytes for array in self.inputs.values())


def read_example(engine: Engine, config: ServingConfig, version_dir: Path, decode: DecodeBody) -> Example | None:
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
            request = read_file(assets / sample.file, _rank(engine))
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


def _rank(engine: Engine) -> int | None:
    """Of the only input of the default signature."""
    specs = list(_signature(engine, DEFAULT_SIGNATURE).inputs.values())
    return len(specs[0].shape) if len(specs) == 1 and specs[0].shape is not None else None


def _signature(engine: Engine, name: str) -> Signature:
    try:
        return engine.signatures[name]
    except KeyError:
        known = ", ".join(map(repr, sorted(engine.signatures)))
        raise LoadError(f"it is for the signature {name!r}; there is {known}") from None


def best_batch_size(
    engine: Engine,
    version: str,
    max_rows: int,
    row_seconds: float,
    example: Example,
    clock: Callable[[], float] = time.thread_time,
) -> int | None:
    """The largest of 1, 4, 16 ... `max_rows` in which a row takes clearly less time than in the size before.

    Larger batches gain nothing, every request in them waits for all rows, and an engine may keep memory for each size
    that it has run. None if it cannot be measured: an engine with threads of its own, or a very quick or slow model.

    `row_seconds`: wall time of a row. `clock`: CPU time of this thread, which other work on the machine hardly changes.
    """
    if not engine.runs_on_caller or row_seconds < MIN_MEASURED_SECONDS:
        return None
    best, message = 1, ""
    seconds_left = MAX_MEASURE_SECONDS
    try:
        for rows in _batch_sizes(max_rows):
            seconds_left -= RUNS_PER_BATCH_SIZE * (rows + best) * row_seconds
            if seconds_left < 0:
                return None
            larger, smaller = _row_seconds(engine, example, (rows, best), clock)
            message = f"a row takes {larger * 1e3:.1f} ms in a batch of {rows}, {smaller * 1e3:.1f} in one of {best}"
            if larger > MAX_ROW_TIME_RATIO * smaller:
                break
            best = rows
    finally:
        engine.release()
    if message:
        logger.info("%s: %s; batches are of %d at most", version, message, best)
    return best


def _batch_sizes(max_rows: int) -> Iterator[int]:
    rows = BATCH_SIZE_STEP
    while rows < max_rows:
        yield rows
        rows *= BATCH_SIZE_STEP
    if max_rows > 1:
        yield max_rows


def _row_seconds(
    engine: Engine, example: Example, sizes: tuple[int, int], clock: Callable[[], float]
) -> tuple[float, float]:
    """Of a row in batches of these sizes. The runs alternate, so that a slow phase of the machine slows down both."""
    inputs = [example.rows(rows) for rows in sizes]
    best = [inf, inf]
    for _ in range(RUNS_PER_BATCH_SIZE):
        for index, rows in enumerate(sizes):
            started = clock()
            engine.run(example.signature_name, inputs[index])
            best[index] = min(best[index], (clock() - started) / rows)
    return best[0], best[1]


def replay(engine: Engine, version_dir: Path) -> bool:
    """Run the recorded requests of a version. False if it brings none.

    Raises:
        LoadError: one of them fails.
    """
    is_replayed = False
    for request in recorded_requests(version_dir):
        is_replayed = True
        inputs = _checked_inputs(engine, request)
        try:
            engine.run(request.signature_name, inputs)
        except ServingError as error:
            raise LoadError(f"{request.where}: {error}") from None
    return is_replayed


# Recorded requests: a TFRecord file of serialized tensorflow.serving.PredictionLog. Formats:
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
_CLASSIFY, _REGRESS, _PREDICT = 2, 3, 6
_UNSUPPORTED = {4: "multi_inference_log", 5: "session_run_log", 7: "predict_streamed_log"}


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """`inputs`: by name; the name "" stands for the only input of the signature."""

    where: str
    signature_name: str
    inputs: Mapping[str, Array]


def recorded_requests(version_dir: Path) -> Iterator[RecordedRequest]:
    """Empty if the version brings none. Unsupported kinds of logs are skipped.

    Raises:
        LoadError: the file is damaged; the message names the record.
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
            request = _recorded_request(record, where)
        except ValueError as error:
            raise LoadError(f"{where} is no tensorflow.serving.PredictionLog: {error}") from None
        if request is not None:
            yield request


def _records(content: memoryview) -> Iterator[memoryview]:
    """Each is: its length (uint64), 4 bytes of a checksum, the record, 4 bytes of its checksum.

    The checksums (CRC-32C) are not verified: Python has no CRC-32C, and a damaged record does not parse.
    """
    position = 0
    while position < len(content):
        start = position + 12
        length = struct.unpack_from("<Q", content, position)[0] if start <= len(content) else len(content)
        if start + length + 4 > len(content):
            raise LoadError(f"{ASSETS}/{WARM_UP_FILE} is no TFRecord file, or ends in the middle of a record")
        yield content[start : start + length]
        position = start + length + 4


def _recorded_request(log: memoryview, where: str) -> RecordedRequest | None:
    kinds = {number: as_bytes(value) for number, value in fields(log) if number != 1}
    if kinds.keys() & _UNSUPPORTED.keys():
        return None
    if len(kinds) != 1 or not kinds.keys() <= {_CLASSIFY, _REGRESS, _PREDICT}:
        raise ValueError("it holds neither a predict_log nor a classify_log nor a regress_log")
    ((kind, message),) = kinds.items()
    request = submessage(message, 1)
    signature_name = as_text(last(submessage(request, 1), 3)) or DEFAULT_SIGNATURE
    if kind == _PREDICT:
        return RecordedRequest(
            where, signature_name, {name: read_tensor(value)[1] for name, value in entries(request, 2)}
        )
    return RecordedRequest(where, signature_name, {"": serialized_examples(submessage(request, 2))})


def _checked_inputs(engine: Engine, request: RecordedRequest) -> Mapping[str, Array]:
    """By name, as the signature declares them. Raises LoadError."""
    signature = engine.signatures.get(request.signature_name)
    if signature is None:
        known = ", ".join(map(repr, sorted(engine.signatures)))
        raise LoadError(f"{request.where} asks for the signature {request.signature_name!r}; there is {known}")
    inputs = request.inputs
    if inputs.keys() == {""} and len(signature.inputs) == 1:
        inputs = {next(iter(signature.inputs)): inputs[""]}
    if mismatch := _mismatch(inputs, signature):
        raise LoadError(f"{request.where} does not fit the signature {request.signature_name!r}: {mismatch}")
    return inputs


def _mismatch(inputs: Mapping[str, Array], signature: Signature) -> str | None:
    if inputs.keys() != signature.inputs.keys():
        return f"its inputs are {sorted(inputs)}; expected {sorted(signature.inputs)}"
    for name, array in inputs.items():
        spec = signature.inputs[name]
        if array.dtype != DTYPES.get(spec.dtype) or not has_fitting_shape(array, spec):
            return f"input {name!r} is {array.dtype} {array.shape}; expected {spec.dtype} {spec.shape}"
    return None
