"""The forms of requests and answers."""

from typing import Any

from service.inference.version import State
from service.tensors.dtypes import DATATYPES

ANY_JSON: dict[str, Any] = {}
TEXT = {"type": "string"}
NUMBER = {"type": ["number", "null"]}
COUNT = {"type": "integer", "minimum": 0}
SHAPE = {"type": "array", "items": {"type": "integer", "minimum": -1}}


def form(required: dict[str, Any], optional: dict[str, Any] | None = None, *, description: str = "") -> dict[str, Any]:
    """An object with these members."""
    made: dict[str, Any] = {"type": "object", "properties": required | (optional or {})}
    if required:
        made["required"] = list(required)
    if description:
        made["description"] = description
    return made


def list_of(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def by_name(values: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": values}


def schema(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


_SIGNATURE_NAME = {"signature_name": {"type": "string", "default": "serving_default"}}
_DATATYPE = {"type": "string", "enum": sorted({*DATATYPES.values(), "BF16"})}
_DURATION = form({"count": COUNT, "ns": COUNT})
_INPUT_PARAMETERS = form({}, {"binary_data_size": COUNT})
_OUTPUT_PARAMETERS = form({}, {"binary_data": {"type": "boolean"}, "classification": COUNT})
_ANSWER_PARAMETERS = form({}, {"binary_data_size": COUNT})
_STAGES = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")

SCHEMAS: dict[str, Any] = {
    "Error": form({"error": TEXT}),
    # v1
    "Value": {
        "description": 'A number, a boolean, a string, {"b64": "..."} for bytes, or lists nested like the tensor.',
        "type": ["number", "boolean", "string", "object", "array"],
    },
    "Rows": form(
        {"instances": {**list_of(schema("Value")), "minItems": 1}},
        _SIGNATURE_NAME,
        description="Row format: an entry per row. One input needs no name; several go by name.",
    ),
    "Columns": form(
        {"inputs": schema("Value")},
        _SIGNATURE_NAME,
        description="Column format: a tensor for each input, by name; one input needs none.",
    ),
    "Examples": form(
        {"examples": {**list_of(by_name(schema("Value"))), "minItems": 1}},
        {**_SIGNATURE_NAME, "context": by_name(schema("Value"))},
        description="Features by name; those of `context` count for every example.",
    ),
    "PredictRequest": {"oneOf": [schema("Rows"), schema("Columns")]},
    "ExamplesRequest": {"oneOf": [schema("Rows"), schema("Columns"), schema("Examples")]},
    "PredictResponse": {"oneOf": [form({"predictions": {"type": "array"}}), form({"outputs": ANY_JSON})]},
    "ClassifyResponse": form(
        {"results": list_of(list_of({"type": "array", "prefixItems": [TEXT, NUMBER], "minItems": 2, "maxItems": 2}))},
        description="For each row [label, score] pairs, best first.",
    ),
    "RegressResponse": form({"results": list_of(NUMBER)}),
    "ModelList": form({"models": list_of(TEXT)}),
    "ModelStatus": form(
        {
            "model_version_status": list_of(
                form(
                    {
                        "version": TEXT,
                        "state": {"type": "string", "enum": [state.value for state in State]},
                        "status": form({"error_code": TEXT, "error_message": TEXT}),
                    }
                )
            )
        }
    ),
    "ModelMetadata": form(
        {
            "model_spec": form({"name": TEXT, "signature_name": TEXT, "version": TEXT}),
            "metadata": form({"signature_def": form({"signature_def": by_name({"type": "object"})})}),
        }
    ),
    # v2
    "InferRequest": form(
        {
            "inputs": {
                **list_of(
                    form(
                        {"name": TEXT, "shape": list_of(COUNT), "datatype": _DATATYPE},
                        {"data": {"type": "array"}, "parameters": _INPUT_PARAMETERS},
                    )
                ),
                "minItems": 1,
            }
        },
        {
            "id": TEXT,
            "outputs": list_of(form({"name": TEXT}, {"parameters": _OUTPUT_PARAMETERS})),
            "parameters": form({}, {"binary_data_output": {"type": "boolean"}}),
        },
    ),
    "InferResponse": form(
        {
            "model_name": TEXT,
            "model_version": TEXT,
            "outputs": list_of(
                form(
                    {"name": TEXT, "shape": SHAPE, "datatype": TEXT},
                    {"data": {"type": "array"}, "parameters": _ANSWER_PARAMETERS},
                )
            ),
        },
        {"id": TEXT},
    ),
    "Tensor": form({"name": TEXT, "datatype": TEXT, "shape": SHAPE}),
    "Model": form(
        {
            "name": TEXT,
            "versions": list_of(TEXT),
            "platform": TEXT,
            "inputs": list_of(schema("Tensor")),
            "outputs": list_of(schema("Tensor")),
        }
    ),
    "ModelReady": form({"name": TEXT, "ready": {"type": "boolean"}}),
    "ModelConfig": form(
        {
            "name": TEXT,
            "platform": TEXT,
            "backend": TEXT,
            "max_batch_size": COUNT,
            "input": list_of({"type": "object"}),
            "output": list_of({"type": "object"}),
        },
        description="Triton's ModelConfig, as far as it says something here.",
    ),
    "Statistics": form(
        {
            "model_stats": list_of(
                form(
                    {
                        "name": TEXT,
                        "version": TEXT,
                        "inference_count": COUNT,
                        "execution_count": COUNT,
                        "inference_stats": form(dict.fromkeys(_STAGES, _DURATION)),
                        "batch_stats": {"type": "array"},
                    }
                )
            )
        }
    ),
    "Index": list_of(form({"name": TEXT, "version": TEXT, "state": TEXT, "reason": TEXT})),
    "Server": form({"name": TEXT, "version": TEXT, "extensions": list_of(TEXT)}),
    "Health": form({"live": {"type": "boolean"}, "ready": {"type": "boolean"}}),
    # The page
    "PlaygroundModels": form(
        {
            "models": list_of(
                form(
                    {
                        "name": TEXT,
                        "default": {"type": ["integer", "null"]},
                        "labels": by_name({"type": "integer"}),
                        "versions": list_of(
                            form(
                                {
                                    "version": COUNT,
                                    "state": TEXT,
                                    "error": TEXT,
                                    "engine": TEXT,
                                    "load_seconds": {"type": "number"},
                                }
                            )
                        ),
                    }
                )
            )
        }
    ),
    "PlaygroundVersion": form(
        {
            "name": TEXT,
            "version": COUNT,
            "engine": TEXT,
            "row_seconds": {"type": ["number", "null"]},
            "signatures": by_name(
                form({"inputs": by_name({"type": "object"}), "outputs": by_name({"type": "object"})})
            ),
            "labels": list_of(TEXT),
            "label_output": {"type": ["string", "null"]},
            "image": {"type": ["object", "null"]},
            "has_outlier_score": {"type": "boolean"},
            "example": {"type": ["object", "null"]},
            "samples": list_of({"type": "object"}),
            "twin": {"type": ["object", "null"]},
            "metrics": {"type": ["object", "null"]},
            "files": list_of(form({"name": TEXT, "bytes": COUNT})),
            "bytes": COUNT,
        }
    ),
    "OcclusionMap": form(
        {"label": TEXT, "score": {"type": "number"}, "drops": list_of(list_of({"type": "number"}))},
        description="`drops`: how much of the label's score goes when a patch there is hidden.",
    ),
}
