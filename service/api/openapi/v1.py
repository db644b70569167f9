"""TensorFlow Serving's REST API."""

from service.api.openapi.parts import Part, example, json_content, parameter, responses, schema
from service.tensors.image_file import FORMATS

PLACES: dict[str, tuple[str, ...]] = {
    "/v1/models/{model}": ("model",),
    "/v1/models/{model}/versions/{version}": ("model", "version"),
    "/v1/models/{model}/labels/{label}": ("model", "label"),
}
_BINARY = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
PICTURE: Part = {f"image/{name.lower()}": _BINARY for name in FORMATS}
FORM: Part = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "description": "one or several files are a batch",
            "minProperties": 1,
            "additionalProperties": {"type": "string", "contentMediaType": "application/octet-stream"},
        }
    }
}

_REGRESSION = {"rows": example("y = 3x + 1, two rows (model regression)", {"instances": [10.0, 0.0]})}
_PREDICT = _REGRESSION | {"columns": example("the same as columns (model regression)", {"inputs": {"x": [10.0, 0.0]}})}
_EXAMPLES = {"examples": example("features by name (model regression)", {"examples": [{"x": 10.0}, {"x": 0.0}]})}
_RECORDING = {"rows": example("ten seconds of standing still (model activity)", {"instances": [[[1.2] * 6] * 100]})}

_VERBS: dict[str, tuple[str, str, Part, str, tuple[str, ...]]] = {
    "predict": ("Predict", "PredictRequest", _PREDICT, "PredictResponse", ("signature_name",)),
    "classify": ("Classify", "ExamplesRequest", _RECORDING, "ClassifyResponse", ("signature_name", "top_k")),
    "regress": ("Regress", "ExamplesRequest", _REGRESSION | _EXAMPLES, "RegressResponse", ()),
}


def paths() -> Part:
    found: Part = {}
    for place, names in PLACES.items():
        where = " ".join(names[1:])
        parameters = [parameter(name) for name in names]
        for verb in _VERBS:
            found[f"{place}:{verb}"] = {"parameters": parameters, "post": _act(verb, where)}
        found[place] = {
            "parameters": parameters,
            "get": _read("Status", "ModelStatus", "states of its versions", where),
        }
        found[f"{place}/metadata"] = {
            "parameters": parameters,
            "get": _read("Metadata", "ModelMetadata", "signatures", where),
        }
    found["/v1/models"] = {
        "get": {
            "tags": ["v1"],
            "operationId": "listModels",
            "summary": "List the models",
            "responses": responses("their names", json_content(schema("ModelList"))),
        }
    }
    return found


def _act(verb: str, where: str) -> Part:
    title, asked, examples, answered, query = _VERBS[verb]
    return {
        "tags": ["v1"],
        "operationId": verb + _suffix(where),
        "summary": title + _by(where),
        "parameters": [parameter(name) for name in (*query, "timeout")],
        "requestBody": {
            "required": True,
            "description": "JSON, whatever the content type says, unless it is a picture or a form.",
            "content": json_content(schema(asked), examples) | ({} if verb == "regress" else PICTURE | FORM),
        },
        "responses": responses("what the model says", json_content(schema(answered)), score="Outlier-Score"),
    }


def _read(title: str, answered: str, description: str, where: str) -> Part:
    return {
        "tags": ["v1"],
        "operationId": title.lower() + _suffix(where),
        "summary": f"{title} of a model" + _by(where),
        "responses": responses(description, json_content(schema(answered))),
    }


def _suffix(where: str) -> str:
    return f"By{where.capitalize()}" if where else ""


def _by(where: str) -> str:
    return f", by {where}" if where else ""
