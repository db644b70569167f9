"""TensorFlow Serving's services: PredictionService and ModelService.

message ModelSpec       { string name = 1; Int64Value version = 2; string version_label = 4;
                          string signature_name = 3; }
message PredictRequest  { ModelSpec model_spec = 1; map<string, TensorProto> inputs = 2;
                          repeated string output_filter = 3; }
message PredictResponse { map<string, TensorProto> outputs = 1; ModelSpec model_spec = 2; }
message ClassificationRequest { ModelSpec model_spec = 1; Input input = 2; }    (RegressionRequest alike)
"""

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from service.api.grpc import messages
from service.api.grpc.known_inputs import MAX_CACHED_BYTES, KnownInputs
from service.api.routes import Match, Method, parse_version
from service.api.v1 import describe
from service.api.v2.views import check_admin
from service.errors import InvalidRequest, NotFound
from service.http import GRPC_CONTENT_TYPE, Request, Response
from service.inference import classification
from service.inference.context import Prediction
from service.inference.infer import Inference
from service.inference.scores import Inferred, outlier_score_headers
from service.inference.version import LoadedVersion
from service.lifecycle.model_server_config import InvalidConfig, model_config, policies_of
from service.lifecycle.registry import Find, Registry
from service.lifecycle.watcher import Watcher
from service.settings import Settings
from service.tensors.dtypes import DTYPES, Array
from service.tensors.protobuf import (
    NUMBER,
    InvalidMessage,
    field,
    number,
    number_field,
    spans,
    submessage,
    text,
    text_field,
    varint,
)
from service.tensors.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from service.tensors.tensor_proto import read_tensor, write_tensor
from service.tensors.tf_example import decode_example, serialized_examples

_PACKAGE = "tensorflow.serving"
_SCORE = struct.Struct("<f")
_FLOAT32 = 5
_CLASSIFY, _REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
_SIGNATURES = f"type.googleapis.com/{_PACKAGE}.SignatureDefMap"
_CODES = {"OK": 0, "FAILED_PRECONDITION": 9}

_known = KnownInputs()


def address(match: Match, request: Request) -> Match:
    """The model that a request names, and its version, label and signature. Raises InvalidMessage."""
    body = request.body
    if known := _known.match(match, body):
        return known
    for key, start, end in spans(body, 0, len(body)):
        if key == 1 and end != NUMBER:
            model, parameters = (_spec_of if end - start <= MAX_CACHED_BYTES else _spec_of.__wrapped__)(body[start:end])
            return Match(match.route, parameters, model)
    raise InvalidRequest("Missing ModelSpec")


def decode(as_content: bool, find: Find, match: Match, request: Request) -> Prediction:
    """A request to Predict, Classify or Regress. Raises ServingError.

    `as_content`: whether Predict's response has `tensor_content` in the place of typed values.
    """
    loaded = _find(find, match)
    request.context.found(loaded)
    loaded.health.check()
    name = match.parameters.get("signature", DEFAULT_SIGNATURE)
    signature = loaded.signature(name)
    body, verb = request.body, match.route.verb
    wanted: Sequence[str] = ()
    if verb == "predict":
        known = _known.find(body)
        inputs = known and known.decode(body, signature)
        if inputs is None:
            inputs, wanted = _decode_predict(body, signature)
            if len(inputs) == 1 and not wanted:
                _known.keep(match, body, *next(iter(inputs.items())))
    else:
        inputs = _decode_examples(submessage(memoryview(body), 2), signature)
    request.context.decoded()

    def encode(inferred: Inferred) -> Response:
        headers = outlier_score_headers(inferred.outlier_scores)
        if verb == "predict":
            content = _encode_predict(loaded, name, inferred.outputs, wanted, as_content)
        else:
            content = field(1, _encode_results(verb, loaded, name, inferred.outputs)) + _spec(2, loaded, name)
        return Response(200, content, GRPC_CONTENT_TYPE, headers)

    return Prediction(loaded, name, inputs, encode, request.context)


def methods(registry: Registry, inference: Inference, settings: Settings, watcher: Watcher) -> dict[str, Method]:
    def multi_inference(_match: Match, request: Request) -> Response:
        asked = messages.decode_request(f"{_PACKAGE}.MultiInferenceRequest", request)
        if not (tasks := asked.get("tasks")):
            raise InvalidRequest("Inference request must have at least one task: tasks is empty")
        if len({task.get("model_spec", {}).get("name", "") for task in tasks}) > 1:
            raise InvalidRequest("All ModelSpecs in a MultiInferenceRequest must access the same model name")
        examples = submessage(memoryview(request.body), 2)
        results = []
        for task in tasks:
            verb, key = _TASKS.get(task.get("method_name", ""), ("", 0))
            if not key:
                raise InvalidRequest(
                    f"Unsupported signature method_name: {task.get('method_name', '')!r}; expected {_CLASSIFY!r} or "
                    f"{_REGRESS!r}"
                )
            loaded, name = _of_spec(registry, task.get("model_spec", {}))
            request.context.found(loaded)
            loaded.health.check()
            inputs = _decode_examples(examples, loaded.signature(name))
            request.context.decoded()
            prediction = Prediction(loaded, name, inputs, _no_response, request.context)
            (outcome,) = inference.infer([prediction], inference.in_thread)
            request.context.inferred()
            if isinstance(outcome, Exception):
                raise outcome
            result = _encode_results(verb, loaded, name, outcome.outputs)
            results.append(field(1, _spec(1, loaded, name) + field(key, result)))
        return Response(200, b"".join(results), GRPC_CONTENT_TYPE)

    def metadata(_match: Match, request: Request) -> Response:
        asked = messages.decode_request(f"{_PACKAGE}.GetModelMetadataRequest", request)
        if "model_spec" not in asked:
            raise InvalidRequest("Missing ModelSpec")
        wanted = asked.get("metadata_field", [])
        if not wanted:
            raise InvalidRequest("GetModelMetadataRequest must specify at least one metadata_field")
        if unknown := [name for name in wanted if name != "signature_def"]:
            raise InvalidRequest(f"Metadata field {unknown[0]} is not supported; expected signature_def")
        loaded, _ = _of_spec(registry, asked["model_spec"])
        request.context.found(loaded)
        described: Any = describe.metadata(loaded)
        signatures = described["metadata"]["signature_def"]["signature_def"]
        for signature in signatures.values():
            del signature["defaults"]
        content = messages.encode(f"{_PACKAGE}.SignatureDefMap", {"signature_def": signatures})
        value = {"type_url": _SIGNATURES, "value": content}
        answer = {"model_spec": _spec_values(loaded), "metadata": {"signature_def": value}}
        return messages.encode_response(f"{_PACKAGE}.GetModelMetadataResponse", answer)

    def status(_match: Match, request: Request) -> Response:
        asked = messages.decode_request(f"{_PACKAGE}.GetModelStatusRequest", request)
        if "model_spec" not in asked:
            raise InvalidRequest("Missing ModelSpec")
        spec = asked["model_spec"]
        version = _of_spec(registry, spec)[0].version if "version_label" in spec else _version(spec)
        described: Any = describe.model_version_status(registry, spec.get("name", ""), version)
        for each in described["model_version_status"]:
            each["status"]["error_code"] = _CODES[each["status"]["error_code"]]
        return messages.encode_response(f"{_PACKAGE}.GetModelStatusResponse", described)

    def reload_config(_match: Match, request: Request) -> Response:
        check_admin(settings)
        asked = messages.decode_request(f"{_PACKAGE}.ReloadConfigRequest", request)
        config = asked.get("config", {})
        if "model_config_list" not in config:
            raise InvalidRequest(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
                "supported"
            )
        configs = config["model_config_list"].get("config", [])
        for each in configs:
            each["version_labels"] = [
                {"key": key, "value": value} for key, value in each.get("version_labels", {}).items()
            ]
        try:
            policies = policies_of(map(model_config, configs))
        except InvalidConfig as error:
            raise InvalidRequest(str(error)) from None
        watcher.reload(policies)
        # Its metrics are none of ours: as there, one that is not known has not grown.
        metrics = [{"name": name, "int64_value_increase": 0} for name in asked.get("metric_names", [])]
        return messages.encode_response(f"{_PACKAGE}.ReloadConfigResponse", {"status": {}, "metric": metrics})

    functions = (multi_inference, metadata, status, reload_config)
    return {f"grpc_v1.{function.__name__}": function for function in functions}


_TASKS = {_CLASSIFY: ("classify", 2), _REGRESS: ("regress", 3)}


@lru_cache(1024)
def _spec_of(content: bytes) -> tuple[str, dict[str, str]]:
    """The model that a ModelSpec names, and its version, label and signature."""
    model, parameters = "", {}
    for key, begin, stop in spans(content, 0, len(content)):
        if key == 1:
            model = text(content, begin, stop)
        elif key == 2:
            version = 0
            for wrapped, value, kind in spans(content, begin, stop):
                if wrapped == 1:
                    version = number(value, kind)
            parameters["version"] = str(version)
        elif key == 3:
            # An empty one counts as none.
            if signature := text(content, begin, stop):
                parameters["signature"] = signature
        elif key == 4:
            parameters["label"] = text(content, begin, stop)
    return model, parameters


def _find(find: Find, match: Match) -> LoadedVersion:
    version = match.parameters.get("version")
    return find(match.model, None if version is None else _checked(match.model, version), match.parameters.get("label"))


def _checked(model: str, version: str) -> int | None:
    if version.startswith("-"):
        raise NotFound(f"Servable not found for request: Specific({model}, {version})")
    return parse_version(version)


def _of_spec(registry: Registry, spec: Mapping[str, Any]) -> tuple[LoadedVersion, str]:
    """The version of a ModelSpec, and the name of its signature."""
    loaded = registry.get(spec.get("name", ""), _version(spec), spec.get("version_label"))
    return loaded, spec.get("signature_name") or DEFAULT_SIGNATURE


def _version(spec: Mapping[str, Any]) -> int | None:
    wrapped = spec.get("version")
    return None if wrapped is None else _checked(spec.get("name", ""), str(wrapped.get("value", 0)))


def _decode_predict(body: bytes, signature: Signature) -> tuple[dict[str, Array], list[str]]:
    """The inputs, and the outputs that are wanted (none: all)."""
    inputs: dict[str, Array] = {}
    wanted: list[str] = []
    for key, start, end in spans(body, 0, len(body)):
        if key == 2:
            name, tensor = "", (0, 0)
            for part, begin, stop in spans(body, start, end):
                if part == 1:
                    name = text(body, begin, stop)
                elif part == 2:
                    tensor = (begin, stop)
            inputs[name] = _tensor(name, body, tensor, signature)
        elif key == 3:
            wanted.append(text(body, start, end))
    for name in wanted:
        if name not in signature.outputs:
            known = ",".join(sorted(signature.outputs))
            raise InvalidRequest(
                f"output tensor alias not found in signature: {name} Outputs expected to be in the set {{{known}}}."
            )
    if len(set(wanted)) < len(wanted):
        twice = next(name for name in wanted if wanted.count(name) > 1)
        raise InvalidRequest(f"duplicate output tensor alias: {twice}")
    return inputs, wanted


def _tensor(name: str, body: bytes, tensor: tuple[int, int], signature: Signature) -> Array:
    try:
        dtype, array = read_tensor(body, *tensor)
    except InvalidMessage as error:
        raise InvalidRequest(f"input {name!r}: {error}") from None
    spec = signature.inputs.get(name)
    # An unknown input is named with all others.
    if spec is not None and dtype != spec.dtype:
        raise InvalidRequest(f"input {name!r} is of the type {dtype}; expected {spec.dtype}")
    return array


def _decode_examples(message: memoryview, signature: Signature) -> dict[str, Array]:
    """The examples of an Input: serialized, for a signature with one string input; else their features, by name."""
    serialized = serialized_examples(message)
    if not len(serialized):
        raise InvalidRequest("Input is empty: expected at least one example in example_list")
    inputs = signature.inputs
    if len(inputs) == 1:
        ((name, spec),) = inputs.items()
        if spec.dtype == "DT_STRING":
            return {name: serialized}
    examples = [decode_example(memoryview(example)) for example in serialized]
    return {name: _feature(name, spec, examples) for name, spec in inputs.items()}


def _feature(name: str, spec: TensorSpec, examples: Sequence[Mapping[str, Array]]) -> Array:
    """The values of a feature, a row for each example."""
    rows = []
    for index, example in enumerate(examples):
        if (values := example.get(name)) is None:
            raise InvalidRequest(f"examples[{index}] has no feature {name!r}, an input of the signature")
        rows.append(values)
    kinds = {row.dtype.kind for row in rows}
    dtype = DTYPES.get(spec.dtype, np.dtype(np.float32))
    if kinds != {"O"} if dtype.hasobject else "O" in kinds:
        raise InvalidRequest(f"the feature {name!r} is of another type than the input, {spec.dtype}")
    if len({len(row) for row in rows}) > 1:
        raise InvalidRequest(f"the feature {name!r} has {len(rows[0])} values in one example, and others in another")
    # A value for a row, or a row of the declared shape.
    shape = (spec.shape or (-1, -1))[1:]
    if -1 in shape:
        shape = (len(rows[0]),) if len(shape) == 1 else shape
    try:
        return np.stack(rows).astype(dtype).reshape(len(rows), *shape)
    except ValueError:
        raise InvalidRequest(
            f"the feature {name!r} has {len(rows[0])} values; expected a row of the shape {list(shape)}"
        ) from None


def _encode_predict(
    loaded: LoadedVersion, signature: str, outputs: Mapping[str, Array], wanted: Sequence[str], as_content: bool
) -> bytes:
    parts: list[bytes | memoryview] = []
    for name in wanted or outputs:
        try:
            tensor = write_tensor(outputs[name], as_content=as_content)
        except ValueError as error:
            raise InvalidRequest(f"output {name!r}: {error}") from None
        size = sum(map(len, tensor))
        head = _key(name) + b"\x12" + varint(size)
        parts += (b"\x0a", varint(len(head) + size), head, *tensor)
    parts.append(_spec(2, loaded, signature))
    return b"".join(parts)


@lru_cache(1024)
def _key(name: str) -> bytes:
    return field(1, name.encode())


def _encode_results(verb: str, loaded: LoadedVersion, signature: str, outputs: Mapping[str, Array]) -> bytes:
    """A ClassificationResult or a RegressionResult."""
    if verb == "regress":
        values = classification.regress(loaded, signature, outputs)
        return b"".join([field(1, _score(1, value)) for value in values])
    rankings = classification.classify(loaded, signature, outputs, None)
    return b"".join(
        [
            field(1, *[field(1, text_field(1, str(label)), _score(2, score)) for label, score in ranking])
            for ranking in rankings
        ]
    )


def _score(key: int, value: Any) -> bytes:
    return varint(key << 3 | _FLOAT32) + _SCORE.pack(value) if value else b""


def _spec(key: int, loaded: LoadedVersion, signature: str) -> bytes:
    return _spec_field(key, loaded.model, loaded.version, signature)


@lru_cache(1024)
def _spec_field(key: int, model: str, version: int, signature: str) -> bytes:
    return field(key, text_field(1, model), field(2, number_field(1, version)), text_field(3, signature))


def _spec_values(loaded: LoadedVersion) -> dict[str, Any]:
    return {"name": loaded.model, "version": {"value": loaded.version}}


def _no_response(_inferred: Inferred) -> Response:
    raise NotImplementedError
