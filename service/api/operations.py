"""Routes for operations: health, and the metrics of all worker processes."""

import orjson
from flask import Response as FlaskResponse

from service.api.flask_app import View, to_flask
from service.http import Response
from service.lifecycle.registry import Registry
from service.metrics.exposition import CONTENT_TYPE, Page


def health(registry: Registry, verb: str) -> Response:
    """`verb`: live or ready. Waits for nothing: the event loop makes it."""
    is_ready = registry.ready
    status = 200 if is_ready or verb == "live" else 503
    return Response(status, orjson.dumps({"live": True, "ready": is_ready}))


def views(registry: Registry, page: Page) -> dict[str, View]:
    return {
        "operations.live": lambda: to_flask(health(registry, "live")),
        "operations.ready": lambda: to_flask(health(registry, "ready")),
        "operations.metrics": lambda: FlaskResponse(page.text(), content_type=CONTENT_TYPE),
    }
