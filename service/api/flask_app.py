"""The Flask app: the views of all routes that are no predictions."""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import flask
import orjson
from flask import Flask
from flask import Response as FlaskResponse
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from service.api.routes import ROUTES, Route
from service.errors import response_to_error
from service.http import WSGI_REQUEST, Request, Response
from service.security import headers

View = Callable[..., FlaskResponse]


class _NameConverter(BaseConverter):
    """A model's name ends where a verb begins."""

    regex = "[^/:]+"


def create_flask(views: Mapping[str, View], routes: Sequence[Route] = ROUTES) -> Flask:
    """`views`: by their endpoints in the table of routes, "v1.status"."""
    app = Flask(__name__, static_folder=None)
    # Paths count as they are; else //a gets a redirect to /a.
    app.url_map.merge_slashes = False
    app.url_map.converters["name"] = _NameConverter
    for route in routes:
        if route.is_view:
            app.add_url_rule(_rule(route), route.endpoint, views[route.endpoint], methods=[route.method])
    headers.register(app)

    @app.errorhandler(Exception)
    def handle_error(error: Exception) -> FlaskResponse:
        request = current_request()
        if isinstance(error, HTTPException):
            # Of a file that is not there, or a part of one.
            return json_response({"error": f"{error.name}: {request.method} {request.path}"}, error.code or 500)
        return to_flask(response_to_error(error, request.method, request.path, request.context.request_id))

    return app


def current_request() -> Request:
    """The request as the transport has it: its views need nothing of Flask's."""
    return cast(Request, flask.request.environ[WSGI_REQUEST])


def json_response(body: object, status: int = 200) -> FlaskResponse:
    return FlaskResponse(orjson.dumps(body), status, mimetype="application/json")


def to_flask(response: Response) -> FlaskResponse:
    return FlaskResponse(response.body, response.status, dict(response.headers), content_type=response.content_type)


def _rule(route: Route) -> str:
    rule = route.path.replace("{model}", "<name:model>").replace("{file}", "<path:file>")
    return rule.replace("{", "<").replace("}", ">")
