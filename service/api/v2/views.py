"""The Open Inference Protocol, version 2, which KServe, Triton and others speak."""

from contextlib import suppress

import orjson
from flask import Response as FlaskResponse

from service.api.flask_app import View, current_request, json_response
from service.api.routes import Match, parse_version
from service.api.v2 import decode as v2_decode
from service.api.v2 import describe
from service.api.v2.decode import HEAD_LENGTH_HEADER
from service.api.v2.encode import encode
from service.api.v2.statistics import statistics
from service.errors import InvalidRequest, ServingError, Unavailable
from service.http import Request, Response
from service.inference.context import Prediction
from service.inference.scores import Inferred
from service.inference.version import LoadedVersion
from service.lifecycle.registry import Find, Registry
from service.lifecycle.watcher import Watcher
from service.metrics.exposition import Page
from service.runtime.utf8 import NotUtf8, without_mark
from service.settings import Settings


class Forbidden(ServingError):
    status = 403


# A model of this name has its metadata where the statistics of all models are.
STATS = "stats"


def decode(find: Find, match: Match, request: Request) -> Prediction:
    """A request for inference. Raises ServingError."""
    loaded = find(match.model, parse_version(match.parameters.get("version")), None)
    request.context.found(loaded)
    loaded.health.check()
    name = v2_decode.signature_name(loaded)
    head, inputs = v2_decode.decode(request.body, request.headers.get(HEAD_LENGTH_HEADER), loaded.signature(name))
    request.context.decoded()

    def encode_response(inferred: Inferred) -> Response:
        return encode(loaded, name, head, inferred.outputs)

    return Prediction(loaded, name, inputs, encode_response, request.context)


def views(registry: Registry, settings: Settings, watcher: Watcher, scraped: Page) -> dict[str, View]:
    """`scraped`: the metrics of all worker processes."""

    def find(model: str, version: str | None) -> LoadedVersion:
        loaded = registry.get(model, parse_version(version))
        current_request().context.found(loaded)
        return loaded

    def server() -> FlaskResponse:
        return json_response(describe.server_metadata())

    def metadata(model: str, version: str | None = None) -> FlaskResponse:
        return json_response(describe.model_metadata(registry, find(model, version)))

    def ready(model: str, version: str | None = None) -> FlaskResponse:
        check_ready(registry, model, parse_version(version))
        return json_response({"name": model, "ready": True})

    def config(model: str, version: str | None = None) -> FlaskResponse:
        return json_response(describe.model_config(find(model, version)))

    def stats(model: str, version: str | None = None) -> FlaskResponse:
        find(model, version)
        return json_response(statistics(registry, scraped, model, parse_version(version)))

    def all_stats() -> FlaskResponse:
        """Of all models; and the metadata of a model with the name `stats`, if there is one: no key is in both."""
        found = statistics(registry, scraped)
        if STATS in registry.defaults():
            with suppress(ServingError):
                found |= describe.model_metadata(registry, find(STATS, None))
        return json_response(found)

    def index() -> FlaskResponse:
        return json_response(describe.repository_index(registry, _wants_ready_only(current_request().body)))

    def load(model: str) -> FlaskResponse:
        check_admin(settings)
        _check_site()
        watcher.load(model)
        return json_response({})

    def unload(model: str) -> FlaskResponse:
        check_admin(settings)
        _check_site()
        watcher.unload(model)
        return json_response({})

    functions = (server, metadata, ready, config, stats, all_stats, index, load, unload)
    return {f"v2.{function.__name__}": function for function in functions}


def check_ready(registry: Registry, model: str, version: int | None) -> None:
    """Raise ServingError where the version that answers is not ready. Waits for nothing: a client wants to know now."""
    if not registry.first_scan_done.is_set():
        raise Unavailable("the models are still being loaded")
    loaded = registry.check_ready(model, version)
    if loaded is not None:
        # A version that this protocol cannot serve is not ready for it.
        v2_decode.signature_name(loaded)


def check_admin(settings: Settings) -> None:
    if not settings.admin:
        raise Forbidden("loading and unloading by request is off; SERVING_ADMIN=1 turns it on")


def _check_site() -> None:
    # Browsers say so of every request, and would send a form of any site's page to this machine's own ports.
    if current_request().headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
        raise Forbidden("a page of another site may not load or unload models")


def _wants_ready_only(body: bytes) -> bool:
    """The body may be empty: Triton's client sends none."""
    if not body.strip():
        return False
    try:
        wanted = orjson.loads(without_mark(body))
    except NotUtf8 as error:
        raise InvalidRequest(f"the body is no JSON: {error}") from None
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f'the body is no JSON: {error.msg}; expected {{"ready": true}} or nothing') from None
    ready = wanted.get("ready", False) if isinstance(wanted, dict) else None
    if not isinstance(ready, bool):
        raise InvalidRequest('expected {"ready": true} or {"ready": false}')
    return ready
