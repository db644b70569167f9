"""What can go wrong with a request, each with its HTTP status; and the one handler that answers for all of it."""

import logging

import orjson
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from service.api.flask_views import response
from service.http import Answer, error_answer

logger = logging.getLogger(__name__)


class ServingError(Exception):
    """Its message goes to the client as it is: what was wrong, where, and what was expected."""

    status = 500
    headers: tuple[tuple[str, str], ...] = ()


class InvalidRequest(ServingError):
    status = 400


class NotFound(ServingError):
    status = 404


class PayloadTooLarge(ServingError):
    status = 413


class UnsupportedMediaType(ServingError):
    status = 415


class Unavailable(ServingError):
    status = 503
    headers = (("retry-after", "1"),)


class GraphError(ServingError):
    """What a graph itself reports, with the status that its code stands for."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
        if status in (429, 503):
            self.headers = (("retry-after", "1"),)


def json_response(body: object, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, mimetype="application/json")


def answer_to(error: Exception, method: str, path: str, request_id: str) -> Answer:
    """What the client is told. What is a bug, or may be one, goes to the log."""
    answer = error_answer(500, "internal error; the service's log has the details")
    if isinstance(error, ServingError):
        answer = error_answer(error.status, str(error), *error.headers)
    # 503 and 504 say what is the matter, and under load there are many.
    if answer.status == 500:
        # No path may look like lines of the log, or move the cursor of who reads them.
        path = path.encode("unicode_escape").decode()
        logger.error(
            "%s %s failed (request %s)", method, path, request_id, exc_info=error, extra={"request_id": request_id}
        )
    return answer


def register(app: Flask) -> None:
    @app.errorhandler(Exception)
    def answer(error: Exception) -> Response:
        if isinstance(error, HTTPException):
            return _answer_http_exception(error)
        return response(answer_to(error, request.method, request.path, g.call.request_id))

    def _answer_http_exception(error: HTTPException) -> Response:
        """Werkzeug's own errors: no route, wrong method, too many parts."""
        status = error.code or 500
        if isinstance(error, RequestEntityTooLarge):
            # The server has seen to the length.
            message = f"the form has too many parts: at most {app.config['MAX_FORM_PARTS']} are taken"
        elif status == 404 and request.path.startswith("/v1/"):
            # TensorFlow Serving answers 400 here, in these words.
            status, message = 400, f"Malformed request: {request.method} {request.path}"
        elif status == 404:
            message = f"no such route: {request.method} {request.path}"
        elif status == 405:
            allowed = ", ".join(sorted(getattr(error, "valid_methods", None) or ()))
            message = f"{request.path} does not take {request.method}; it takes {allowed}"
            if request.path.startswith("/v1/"):
                # Its clients may look for these words, which come with 400 there.
                message = f"Malformed request: {request.method} {request.path}: {message}"
        else:
            message = error.description or error.name
        response = json_response({"error": message}, status)
        if status == 405:
            response.headers.extend(error.get_headers())
            response.mimetype = "application/json"
        return response
