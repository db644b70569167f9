"""The Open Inference Protocol."""

from service.api.openapi.parts import Part, example, json_content, parameter, responses, schema
from service.api.v2.decode import HEAD_LENGTH

PLACES: dict[str, tuple[str, ...]] = {
    "/v2/models/{model}": ("model",),
    "/v2/models/{model}/versions/{version}": ("model", "version"),
}
_BINARY = {"application/octet-stream": {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}}
_LENGTH: Part = {
    "name": HEAD_LENGTH,
    "in": "header",
    "description": "how long the JSON is where binary data stands behind it; 0: the body is the only input's data",
    "schema": {"type": "integer", "minimum": 0},
}
_INPUT = {"name": "x", "shape": [2], "datatype": "FP32", "data": [10.0, 0.0]}
_EXAMPLE = {"regression": example("y = 3x + 1, two rows (model regression)", {"id": "42", "inputs": [_INPUT]})}
_READS = {
    "": ("Metadata", "A model's tensors", "those of the signature serving_default", "Model"),
    "/ready": ("Ready", "Whether a model answers", "it does", "ModelReady"),
    "/config": ("Config", "A model's configuration", "as Triton's tools read it", "ModelConfig"),
    "/stats": ("Statistics", "A model's statistics", "requests, rows, runs, stages since the start", "Statistics"),
}


def paths() -> Part:
    found: Part = {}
    for place, names in PLACES.items():
        by = "ByVersion" if len(names) > 1 else ""
        parameters = [parameter(name) for name in names]
        found[f"{place}/infer"] = {"parameters": parameters, "post": _infer(by)}
        for suffix, (what, summary, description, answered) in _READS.items():
            operation = _read(f"model{what}{by}", summary, description, answered)
            found[place + suffix] = {"parameters": parameters, "get": operation}
    found["/v2"] = {"get": _read("server", "The server", "its name, version and extensions", "Server")}
    found["/v2/models/stats"] = {
        "get": _read("statistics", "Statistics of all models", "the same of all", "Statistics")
    }
    found["/v2/repository/index"] = {"post": _index()}
    for verb in ("load", "unload"):
        found[f"/v2/repository/models/{{model}}/{verb}"] = {"parameters": [parameter("model")], "post": _admin(verb)}
    return found


def _infer(by: str) -> Part:
    body = json_content(schema("InferRequest"), _EXAMPLE) | _BINARY
    return {
        "tags": ["v2"],
        "operationId": f"infer{by}",
        "summary": "Infer",
        "parameters": [_LENGTH, parameter("timeout")],
        "requestBody": {"required": True, "content": body},
        "responses": responses("the outputs", json_content(schema("InferResponse")) | _BINARY),
    }


def _read(operation: str, summary: str, description: str, answered: str) -> Part:
    return {
        "tags": ["v2"],
        "operationId": operation,
        "summary": summary,
        "responses": responses(description, json_content(schema(answered))),
    }


def _index() -> Part:
    asked = {"type": "object", "properties": {"ready": {"type": "boolean", "default": False}}}
    examples = {"ready": example("those that answer", {"ready": True})}
    operation = _read("repositoryIndex", "Every version on disk", "name, version, state and reason", "Index")
    return operation | {"requestBody": {"required": False, "content": json_content(asked, examples)}}


def _admin(verb: str) -> Part:
    return {
        "tags": ["v2"],
        "operationId": f"{verb}Model",
        "summary": f"{verb.capitalize()} a model, where the operator allows it",
        "responses": responses("done, in every worker process", json_content({"type": "object", "maxProperties": 0})),
    }
