"""Health, metrics, and this document."""

from service.api.openapi.parts import REQUEST_ID, Part, json_content, responses, schema

_TEXT = {"text/plain": {"schema": {"type": "string"}}}
_HTML = {"text/html": {"schema": {"type": "string"}}}


def paths() -> Part:
    unready = {"description": "not ready", "headers": REQUEST_ID, "content": json_content(schema("Health"))}
    health = responses("yes", json_content(schema("Health")))
    metrics = responses("in Prometheus's text format", _TEXT)
    return {
        "/v2/health/live": _get("live", "Whether the process answers", health),
        "/v2/health/ready": _get("ready", "Whether models answer", health | {"503": unready}),
        "/metrics": _get("metrics", "Metrics of all worker processes", metrics),
        "/monitoring/prometheus/metrics": _get(
            "metricsOfTensorFlowServing", "The same, where TensorFlow Serving has it", metrics
        ),
        "/openapi.json": _get("openapi", "This document", responses("OpenAPI 3.1", json_content({"type": "object"}))),
        "/docs": _get("docs", "This document, for people", responses("a page", _HTML)),
        "/": _get("page", "Try the models in a browser", responses("a page", _HTML)),
    }


def _get(operation: str, summary: str, answers: Part) -> Part:
    # They need no key.
    return {
        "get": {
            "tags": ["operations"],
            "operationId": operation,
            "summary": summary,
            "security": [],
            "responses": answers,
        }
    }
