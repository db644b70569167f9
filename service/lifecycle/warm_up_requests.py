"""What a version brings for its warm-up: recorded requests as TensorFlow Serving reads them, or an example.

Recorded requests are a TFRecord file of serialized tensorflow.serving.PredictionLog. Formats:
tensorflow/core/lib/io/record_writer.h,
tensorflow_serving/apis/{prediction_log,predict,classification,regression,input,model}.proto.

    message PredictionLog  { oneof log_type { ClassifyLog classify_log = 2; RegressLog regress_log = 3;
                             MultiInferenceLog multi_inference_log = 4; SessionRunLog session_run_log = 5;
                             PredictLog predict_log = 6; PredictStreamedLog predict_streamed_log = 7; } }
    message PredictLog     { PredictRequest request = 1; }           (ClassifyLog and RegressLog likewise)
    message PredictRequest { ModelSpec model_spec = 1; map<string, TensorProto> inputs = 2; }
    message ClassificationRequest { ModelSpec model_spec = 1; Input input = 2; }       (RegressionRequest likewise)
    message ModelSpec      { string signature_name = 3; }
    message Input          { oneof kind { ExampleList example_list = 1;
                             ExampleListWithContext example_list_with_context = 2; } }
    message ExampleListWithContext { repeated Example examples = 1; Example context = 2; }   (ExampleList without it)
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.api.v1.decode import Body, decode_predict
from service.cli.inputs import Asked, InvalidInput, requests
from service.engines.base import Engine, LoadError
from service.engines.saved_model.tensor_proto import read_tensor
from service.engines.saved_model.wire import NOTHING, as_bytes, as_text, entries, fields, last, submessage
from service.serving_config import ASSETS, ServingConfig
from service.settings import Settings
from service.tensors.image import picture_batch
from service.tensors.json import Array
from service.tensors.signature import DEFAULT_SIGNATURE, Signature

WARM_UP_FILE = "tf_serving_warmup_requests"
# TensorFlow Serving's limit.
MOST_RECORDS = 1000

_CLASSIFY, _REGRESS, _PREDICT = 2, 3, 6
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


def example_of(engine: Engine, config: ServingConfig, version_dir: Path) -> Example | None:
    """The version's example, else its first sample; None where it has neither. Raises ServingError, InvalidInput."""
    assets = version_dir / ASSETS
    if config.example is not None and "picture" in config.example:
        request = Asked("example", picture=(assets / str(config.example["picture"])).read_bytes())
    elif config.example is not None:
        request = Asked("example", body=config.example)
    elif config.samples:
        sample = config.samples[0]
        if sample.file is None:
            request = Asked("samples[0]", body={"instances": [sample.instance]})
        else:
            request = _sample_file(engine, assets / sample.file)
    else:
        return None
    if request.picture is not None:
        limits = Settings().max_image_pixels, Settings().max_buffered_bytes
        signature = _signature(engine, DEFAULT_SIGNATURE)
        inputs = picture_batch({request.name: request.picture}, signature, config.image, *limits)
        return Example(DEFAULT_SIGNATURE, inputs)
    body = Body(request.body or {}, str((request.body or {}).get("signature_name", DEFAULT_SIGNATURE)))
    return Example(body.signature_name, decode_predict(body, _signature(engine, body.signature_name)))


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
        if number > MOST_RECORDS:
            raise LoadError(f"{ASSETS}/{WARM_UP_FILE} has too many records: at most {MOST_RECORDS} are taken")
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


def _sample_file(engine: Engine, path: Path) -> Asked:
    specs = list(_signature(engine, DEFAULT_SIGNATURE).inputs.values())
    rank = len(specs[0].shape) if len(specs) == 1 and specs[0].shape is not None else None
    found = next(requests([str(path)], rank, None))
    if isinstance(found, InvalidInput):
        raise found
    return found


def _signature(engine: Engine, name: str) -> Signature:
    try:
        return engine.signatures[name]
    except KeyError:
        known = ", ".join(map(repr, sorted(engine.signatures)))
        raise LoadError(f"it is for the signature {name!r}; there is {known}") from None
