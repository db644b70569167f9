"""What the operator's tools ask: health and metrics."""

import orjson
from flask import Blueprint
from flask import Response as FlaskResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from service.api import flask_views
from service.http import Response
from service.lifecycle.registry import Registry
from service.metrics.exposition import Page

LIVE, READY = "/v2/health/live", "/v2/health/ready"


def health(registry: Registry, path: str) -> Response:
    """Of LIVE or READY. It waits for nothing: the event loop gives it."""
    is_ready = registry.ready
    status = 200 if is_ready or path == LIVE else 503
    return Response(status, orjson.dumps({"live": True, "ready": is_ready}))


def blueprint(registry: Registry, page: Page) -> Blueprint:
    views = Blueprint("ops", __name__)

    @views.get(LIVE)
    def live() -> FlaskResponse:
        return flask_views.response(health(registry, LIVE))

    @views.get(READY)
    def ready() -> FlaskResponse:
        return flask_views.response(health(registry, READY))

    @views.get("/metrics")
    @views.get("/monitoring/prometheus/metrics")
    def metrics_page() -> FlaskResponse:
        return FlaskResponse(page.text(), content_type=CONTENT_TYPE_PLAIN_0_0_4)

    return views
