"""What the operator's tools ask: health and metrics."""

from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from service.errors import json_response
from service.metrics.page import Page
from service.registry import Registry


def blueprint(registry: Registry, page: Page) -> Blueprint:
    views = Blueprint("ops", __name__)

    @views.get("/v2/health/live")
    def live() -> Response:
        return json_response({"live": True, "ready": registry.ready})

    @views.get("/v2/health/ready")
    def ready() -> Response:
        return json_response({"live": True, "ready": registry.ready}, 200 if registry.ready else 503)

    @views.get("/metrics")
    @views.get("/monitoring/prometheus/metrics")
    def metrics_page() -> Response:
        return Response(page.text(), content_type=CONTENT_TYPE_PLAIN_0_0_4)

    return views
