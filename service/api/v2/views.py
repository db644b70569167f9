"""The Open Inference Protocol, version 2, which KServe, Triton and others speak."""

from contextlib import suppress

import flask
import orjson
from flask import Blueprint
from flask import Response as FlaskResponse
from prometheus_client.registry import Collector

from service.api import flask_views
from service.api.flask_views import json_response
from service.api.v1.views import version_of
from service.api.v2 import decode as v2_codec
from service.api.v2 import describe as v2_describe
from service.api.v2 import statistics as v2_statistics
from service.api.v2.decode import HEAD_LENGTH_HEADER
from service.errors import InvalidRequest, ServingError, Unavailable
from service.http import Request, Response
from service.inference.context import Prediction, RequestContext, current_context
from service.inference.infer import Inference
from service.inference.scores import Inferred
from service.inference.version import LoadedVersion
from service.lifecycle.registry import Find
from service.lifecycle.watcher import Watcher
from service.runtime.utf8 import NotUtf8, without_mark
from service.settings import Settings


class Forbidden(ServingError):
    status = 403


# A model of this name has its metadata where the statistics of all models are.
STATS = "stats"

_PLACES = ("/v2/models/<name:model>", "/v2/models/<name:model>/versions/<version>")


def decode(
    find: Find,
    settings: Settings,  # noqa: ARG001  # every protocol's decode takes them
    context: RequestContext,
    request: Request,
    model: str,
    version: str | None = None,
) -> Prediction:
    """A request for inference. Raises ServingError."""
    loaded = find(model, version_of(version), None)
    context.found(loaded)
    loaded.health.check()
    name = v2_codec.signature_name(loaded)
    head, inputs = v2_codec.decode(request.body, request.headers.get(HEAD_LENGTH_HEADER), loaded.signature(name))
    context.decoded()

    def encode(inferred: Inferred) -> Response:
        return v2_codec.encode(loaded, name, head, inferred.outputs)

    return Prediction(loaded, name, inputs, encode, context)


def blueprint(inference: Inference, settings: Settings, watcher: Watcher, scraped: Collector) -> Blueprint:
    """`scraped`: where the metrics of all worker processes are read."""
    views = Blueprint("v2", __name__)
    registry = inference.registry

    def find(model: str, version: str | None) -> LoadedVersion:
        loaded = registry.get(model, version_of(version))
        current_context().found(loaded)
        return loaded

    def infer(**asked: str) -> FlaskResponse:
        prediction = decode(registry.get, settings, current_context(), flask_views.current_request(), **asked)
        return flask_views.response(inference.answer(prediction))

    def metadata(model: str, version: str | None = None) -> FlaskResponse:
        return json_response(v2_describe.model_metadata(registry, find(model, version)))

    def ready(model: str, version: str | None = None) -> FlaskResponse:
        # Who asks this wants to be told, not to wait.
        if not registry.first_scan_done.is_set():
            raise Unavailable("the models are still being loaded")
        loaded = registry.check_ready(model, version_of(version))
        if loaded is not None:
            # What cannot be asked by this protocol is not ready for it.
            v2_codec.signature_name(loaded)
        return json_response({"name": model, "ready": True})

    def config(model: str, version: str | None = None) -> FlaskResponse:
        return json_response(v2_describe.model_config(find(model, version)))

    def stats(model: str, version: str | None = None) -> FlaskResponse:
        find(model, version)
        return json_response(v2_statistics.statistics(registry, scraped, model, version_of(version)))

    for place in _PLACES:
        views.add_url_rule(place + "/infer", "infer", infer, methods=["POST"])
        views.add_url_rule(place, "metadata", metadata, methods=["GET"])
        views.add_url_rule(place + "/ready", "ready", ready, methods=["GET"])
        views.add_url_rule(place + "/config", "config", config, methods=["GET"])
        views.add_url_rule(place + "/stats", "stats", stats, methods=["GET"])

    @views.get("/v2")
    def server() -> FlaskResponse:
        return json_response(v2_describe.server_metadata())

    @views.get("/v2/models/stats")
    def all_stats() -> FlaskResponse:
        """Of all models; and the metadata of the model that is called so, if there is one: no key is in both."""
        statistics = v2_statistics.statistics(registry, scraped)
        if STATS in registry.defaults():
            with suppress(ServingError):
                statistics |= v2_describe.model_metadata(registry, find(STATS, None))
        return json_response(statistics)

    @views.post("/v2/repository/index")
    def index() -> FlaskResponse:
        return json_response(v2_describe.repository_index(registry, _wants_ready_only(flask.request.get_data())))

    @views.post("/v2/repository/models/<name:model>/load")
    def load(model: str) -> FlaskResponse:
        _check_admin(settings)
        watcher.load(model)
        return json_response({})

    @views.post("/v2/repository/models/<name:model>/unload")
    def unload(model: str) -> FlaskResponse:
        _check_admin(settings)
        watcher.unload(model)
        return json_response({})

    return views


def _check_admin(settings: Settings) -> None:
    if not settings.admin:
        raise Forbidden("loading and unloading by request is off; SERVING_ADMIN=1 turns it on")
    # Browsers say so of every request, and would send a form of any site's page to this machine's own ports.
    if flask.request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        raise Forbidden("a page of another site may not load or unload models")


def _wants_ready_only(body: bytes) -> bool:
    """The body may be empty: Triton's client sends none."""
    if not body.strip():
        return False
    try:
        asked = orjson.loads(without_mark(body))
    except NotUtf8 as error:
        raise InvalidRequest(f"the body is no JSON: {error}") from None
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f'the body is no JSON: {error.msg}; expected {{"ready": true}} or nothing') from None
    ready = asked.get("ready", False) if isinstance(asked, dict) else None
    if not isinstance(ready, bool):
        raise InvalidRequest('expected {"ready": true} or {"ready": false}')
    return ready
