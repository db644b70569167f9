"""The Open Inference Protocol's service, with the extensions of Triton's clients.

    message ModelInferRequest  { string model_name = 1; string model_version = 2; string id = 3;
                                 repeated InferInputTensor inputs = 5;
                                 repeated InferRequestedOutputTensor outputs = 6;
                                 repeated bytes raw_input_contents = 7; }
    message InferInputTensor   { string name = 1; string datatype = 2; repeated int64 shape = 3;
                                 map<string, InferParameter> parameters = 4; InferTensorContents contents = 5; }
    message ModelInferResponse { string model_name = 1; string model_version = 2; string id = 3;
                                 repeated InferOutputTensor outputs = 5; repeated bytes raw_output_contents = 6; }

A request with raw contents gets raw contents, any other gets typed ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from service.api.grpc import messages
from service.api.grpc.known_inputs import MAX_CACHED_BYTES, KnownInputs
from service.api.routes import Match, Method, parse_version
from service.api.v2 import binary, describe
from service.api.v2 import decode as v2_decode
from service.api.v2.decode import Output, OutputParameters
from service.api.v2.encode import classify, datatype_of
from service.api.v2.statistics import statistics
from service.api.v2.views import check_admin, check_ready
from service.errors import InvalidRequest, NotFound, Unavailable
from service.http import GRPC_CONTENT_TYPE, Request, Response
from service.inference.context import Prediction
from service.inference.scores import Inferred, outlier_score_headers
from service.inference.version import LoadedVersion
from service.lifecycle.registry import Find, Registry
from service.lifecycle.watcher import Watcher
from service.metrics.exposition import Page
from service.settings import Settings
from service.tensors import protobuf
from service.tensors.dtypes import DTYPES, Array, shape_text
from service.tensors.protobuf import NUMBER, Data, number, pack_varints, spans, text, text_field, varint, varints
from service.tensors.signature import Signature

_PACKAGE = "inference"
# The field of InferTensorContents for a datatype. There is none for half precision.
_BOOL, _INT, _INT64, _UINT, _UINT64, _FP32, _FP64, _BYTES = 1, 2, 3, 4, 5, 6, 7, 8
_CONTENTS = {
    "BOOL": _BOOL,
    **dict.fromkeys(("INT8", "INT16", "INT32"), _INT),
    "INT64": _INT64,
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), _UINT),
    "UINT64": _UINT64,
    "FP32": _FP32,
    "FP64": _FP64,
    "BYTES": _BYTES,
}


@dataclass(frozen=True, slots=True)
class _Input:
    """`data`: of the message. `contents`: where they are in it."""

    data: Data
    name: str = ""
    datatype: str = ""
    shape: tuple[int, ...] = ()
    shared_memory_region: str | None = None
    contents: tuple[int, int] | None = None


class _Head(NamedTuple):
    """`raw`: where raw contents are in the message."""

    request_id: str
    inputs: list[_Input]
    outputs: list[Output]
    raw: list[tuple[int, int]]


_known = KnownInputs()


def address(match: Match, request: Request) -> Match:
    """The model and the version that a request names. Raises InvalidMessage."""
    body = request.body
    if known := _known.match(match, body):
        return known
    model, parameters = "", {}
    for key, start, end in spans(body, 0, len(body)):
        if key == 1:
            model = text(body, start, end)
        elif key == 2:
            # An empty one counts as none.
            if version := text(body, start, end):
                parameters["version"] = version
        else:
            # Both come first, as everybody writes them; what comes again behind the tensors does not count.
            break
    return Match(match.route, parameters, model)


def decode(find: Find, match: Match, request: Request) -> Prediction:
    """A request for inference. Raises ServingError."""
    loaded = find(match.model, parse_version(match.parameters.get("version")), None)
    request.context.found(loaded)
    loaded.health.check()
    name = v2_decode.signature_name(loaded)
    signature = loaded.signature(name)
    body = request.body
    known = _known.find(body)
    inputs = known and known.decode(body, signature)
    if known is not None and inputs is not None:
        head: _Head = known.head
    else:
        head, inputs = _decode_inputs(body, signature)
        # Ids do not come again.
        if len(head.raw) == 1 and not head.request_id:
            _known.keep(match, body, *next(iter(inputs.items())), head)
    v2_decode.check_outputs(head.outputs, signature)
    request.context.decoded()

    def encode(inferred: Inferred) -> Response:
        content = _encode(loaded, name, head, inferred.outputs)
        if match.route.is_stream:
            content = protobuf.field(2, content)
        return Response(200, content, GRPC_CONTENT_TYPE, outlier_score_headers(inferred.outlier_scores))

    return Prediction(loaded, name, inputs, encode, request.context)


def stream_error(message: str) -> bytes:
    """The ModelStreamInferResponse for a request that failed; the stream goes on."""
    return text_field(1, message or "it failed")


def methods(registry: Registry, settings: Settings, watcher: Watcher, page: Page) -> dict[str, Method]:
    def found(asked: Mapping[str, Any], request: Request) -> LoadedVersion:
        loaded = registry.get(asked.get("name", ""), _version(asked))
        request.context.found(loaded)
        return loaded

    def live(_match: Match, _request: Request) -> Response:
        return _response("ServerLiveResponse", {"live": True})

    def ready(_match: Match, _request: Request) -> Response:
        return _response("ServerReadyResponse", {"ready": registry.ready})

    def model_ready(_match: Match, request: Request) -> Response:
        asked = _decoded("ModelReadyRequest", request)
        version = _version(asked)
        try:
            check_ready(registry, asked.get("name", ""), version)
        # Clients expect an answer, as Triton gives it.
        except (NotFound, Unavailable):
            return _response("ModelReadyResponse", {"ready": False})
        return _response("ModelReadyResponse", {"ready": True})

    def server(_match: Match, _request: Request) -> Response:
        return _response("ServerMetadataResponse", describe.server_metadata())

    def metadata(_match: Match, request: Request) -> Response:
        loaded = found(_decoded("ModelMetadataRequest", request), request)
        return _response("ModelMetadataResponse", describe.model_metadata(registry, loaded))

    def config(_match: Match, request: Request) -> Response:
        loaded = found(_decoded("ModelConfigRequest", request), request)
        return _response("ModelConfigResponse", {"config": describe.model_config(loaded)})

    def stats(_match: Match, request: Request) -> Response:
        asked = _decoded("ModelStatisticsRequest", request)
        model = asked.get("name") or None
        if model is not None:
            found(asked, request)
        return _response("ModelStatisticsResponse", statistics(registry, page, model, _version(asked)))

    def index(_match: Match, request: Request) -> Response:
        asked = _decoded("RepositoryIndexRequest", request)
        models = describe.repository_index(registry, asked.get("ready", False))
        return _response("RepositoryIndexResponse", {"models": models})

    def load(_match: Match, request: Request) -> Response:
        check_admin(settings)
        watcher.load(_decoded("RepositoryModelLoadRequest", request).get("model_name", ""))
        return _response("RepositoryModelLoadResponse", {})

    def unload(_match: Match, request: Request) -> Response:
        check_admin(settings)
        watcher.unload(_decoded("RepositoryModelUnloadRequest", request).get("model_name", ""))
        return _response("RepositoryModelUnloadResponse", {})

    functions = (live, ready, model_ready, server, metadata, config, stats, index, load, unload)
    return {f"grpc_v2.{function.__name__}": function for function in functions}


def _version(asked: Mapping[str, Any]) -> int | None:
    return parse_version(asked.get("version") or None)


def _decoded(message: str, request: Request) -> dict[str, Any]:
    return messages.decode_request(f"{_PACKAGE}.{message}", request)


def _response(message: str, values: Mapping[str, Any]) -> Response:
    return messages.encode_response(f"{_PACKAGE}.{message}", values)


def _read(body: bytes) -> _Head:
    request_id = ""
    inputs: list[_Input] = []
    outputs: list[Output] = []
    raw: list[tuple[int, int]] = []
    for key, start, end in spans(body, 0, len(body)):
        if key == 7:
            raw.append((start, end))
        elif key == 5:
            inputs.append(_input(body, start, end))
        elif key == 6:
            outputs.append(_read_output(body, start, end))
        elif key == 3:
            request_id = text(body, start, end)
    return _Head(request_id, inputs, outputs, raw)


def _decode_inputs(body: bytes, signature: Signature) -> tuple[_Head, dict[str, Array]]:
    head = _read(body)
    if head.raw and len(head.raw) != len(head.inputs):
        raise InvalidRequest(
            f"{len(head.inputs)} inputs have {len(head.raw)} raw_input_contents; expected one for each, or none"
        )
    inputs: dict[str, Array] = {}
    for index, each in enumerate(head.inputs):
        if each.name in inputs:
            raise InvalidRequest(f"input {each.name!r} is there twice")
        inputs[each.name] = _decode_input(body, each, head.raw[index] if head.raw else None, signature)
    return head, inputs


def _input(body: bytes, start: int, end: int) -> _Input:
    # Clients send the same few names, types and shapes again and again.
    if 0 <= end - start <= MAX_CACHED_BYTES:
        return _kept_input(body[start:end])
    return _read_input(memoryview(body)[start : max(start, end)])


def _read_input(data: Data) -> _Input:
    name, datatype = "", ""
    region: str | None = None
    contents: tuple[int, int] | None = None
    shape: list[int] = []
    for key, begin, stop in spans(data, 0, len(data)):
        if key == 1:
            name = text(data, begin, stop)
        elif key == 2:
            datatype = text(data, begin, stop)
        elif key == 3:
            shape += [number(begin, stop)] if stop == NUMBER else varints(data, begin, stop).view(np.int64).tolist()
        elif key == 4:
            parameter, value = _parameter(data, begin, stop)
            if parameter == "shared_memory_region":
                region = str(value)
        elif key == 5:
            contents = (begin, stop)
    return _Input(data, name, datatype, tuple(shape), region, contents)


_kept_input = lru_cache(1024)(_read_input)


def _read_output(body: bytes, start: int, end: int) -> Output:
    name, parameters = "", {}
    for key, begin, stop in spans(body, start, end):
        if key == 1:
            name = text(body, begin, stop)
        elif key == 2:
            parameter, value = _parameter(body, begin, stop)
            parameters[parameter] = value
    count = parameters.get("classification", 0)
    if not isinstance(count, int) or count < 0:
        raise InvalidRequest(f"output {name!r}: classification is {count!r}; expected a whole number of at least 0")
    region = parameters.get("shared_memory_region")
    return Output(name, OutputParameters(None, count, None if region is None else str(region)))


def _parameter(body: Data, start: int, end: int) -> tuple[str, int | str | None]:
    """An entry of a map<string, InferParameter>; None for a number with a point."""
    name = ""
    value: int | str | None = None
    for key, begin, stop in spans(body, start, end):
        if key == 1:
            name = text(body, begin, stop)
        elif key == 2:
            for kind, first, last in spans(body, begin, stop):
                if kind == 3:
                    value = text(body, first, last)
                elif last == NUMBER:
                    value = number(first, last)
    return name, value


def _decode_input(body: bytes, given: _Input, raw: tuple[int, int] | None, signature: Signature) -> Array:
    name, shape = given.name, given.shape
    spec = v2_decode.input_spec(name, given.datatype, given.shared_memory_region, signature)
    if shape and min(shape) < 0:
        raise InvalidRequest(f"input {name!r} has the shape {shape_text(shape)}; expected sizes of at least 0")
    if raw is not None:
        if given.contents is not None:
            raise InvalidRequest(f"input {name!r} has both contents and raw_input_contents; expected one of them")
        start, end = raw
        if end == NUMBER:
            raise InvalidRequest("raw_input_contents holds a number; expected bytes")
        return binary.decode_tensor(name, spec, shape, memoryview(body)[start:end])
    wanted = _CONTENTS.get(given.datatype)
    if wanted is None:
        raise InvalidRequest(f"input {name!r}: {given.datatype} has no typed contents; send raw_input_contents")
    values = _typed(given, wanted, DTYPES[spec.dtype])
    if len(values) != prod(shape):
        raise InvalidRequest(
            f"input {name!r} has {len(values)} values in its contents; the shape {shape_text(shape)} has {prod(shape)}"
        )
    return binary.reshape(name, values, shape)


def _typed(given: _Input, wanted: int, dtype: "np.dtype[Any]") -> Array:
    found: list[tuple[int, int]] = []
    if given.contents is not None:
        for key, start, end in spans(given.data, *given.contents):
            if key != wanted:
                raise InvalidRequest(f"input {given.name!r} has contents of another type than {given.datatype}")
            found.append((start, end))
    return protobuf.repeated(given.data, found, dtype)


def _encode(loaded: LoadedVersion, signature_name: str, head: _Head, outputs: Mapping[str, Array]) -> bytes:
    wanted = head.outputs or map(Output, outputs)
    arrays = [_output(loaded, signature_name, output, outputs) for output in wanted]
    datatypes = [datatype_of(name, array) for name, array in arrays]
    # Half precision has no typed contents.
    is_raw = bool(head.raw) or not all(datatype in _CONTENTS for datatype in datatypes)
    parts: list[bytes | memoryview] = [_spec(loaded.model, loaded.version_text), text_field(3, head.request_id)]
    raw: list[bytes | memoryview] = []
    for (name, array), datatype in zip(arrays, datatypes, strict=True):
        described = _described(name, datatype, array.shape)
        if is_raw:
            parts += (b"\x2a", varint(len(described)), described)
            content = _raw(array)
            raw += (b"\x32", varint(len(content)), content)
        else:
            contents = protobuf.field(5, _typed_contents(array, _CONTENTS[datatype]))
            parts.append(protobuf.field(5, described, contents))
    return b"".join(parts + raw)


@lru_cache(1024)
def _spec(model: str, version: str) -> bytes:
    return text_field(1, model) + text_field(2, version)


@lru_cache(1024)
def _described(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    sizes = protobuf.field(3, *map(varint, shape)) if shape else b""
    return text_field(1, name) + text_field(2, datatype) + sizes


def _output(
    loaded: LoadedVersion, signature_name: str, wanted: Output, outputs: Mapping[str, Array]
) -> tuple[str, Array]:
    array = outputs[wanted.name]
    count = wanted.parameters.classification if wanted.parameters is not None else 0
    return wanted.name, classify(loaded, signature_name, wanted.name, array, count) if count else array


def _raw(array: Array) -> "bytes | memoryview":
    if array.dtype.kind in "OSU" or not array.size:
        return binary.encode_tensor(array)
    return np.ascontiguousarray(array).data.cast("B")


def _typed_contents(array: Array, key: int) -> bytes:
    if key == _BYTES:
        values = array.ravel().tolist()
        return b"".join([protobuf.field(_BYTES, v if isinstance(v, bytes) else v.encode()) for v in values])
    if not array.size:
        return b""
    if key in (_FP32, _FP64):
        return protobuf.field(key, array.tobytes())
    return protobuf.field(key, pack_varints(array))
