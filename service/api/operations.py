"""Routes for operations: health, and the metrics of all worker processes."""

import orjson
from flask import Response as FlaskResponse

from service.api.flask_app import View
from service.http import Response
from service.lifecycle.registry import Registry
from service.metrics.exposition import CONTENT_TYPE, Page


def health(registry: Registry, verb: str) -> Response:
    """`verb`: live or ready. Waits for nothing: the event loop makes it."""
    is_ready = registry.ready
    status = 200 if is_ready or verb == "live" else 503
    return Response(status, orjson.dumps({"live": True, "ready": is_ready}))


def views(page: Page) -> dict[str, View]:
    return {"operations.metrics": lambda: FlaskResponse(page.text(), content_type=CONTENT_TYPE)}
