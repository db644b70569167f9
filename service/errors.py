"""What can go wrong with a request, each with its HTTP status; and the one handler that answers for all of it."""

import logging
import time

import orjson
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

DISCARD_SECONDS = 5

logger = logging.getLogger(__name__)


class ServingError(Exception):
    """Its message goes to the client as it is: what was wrong, where, and what was expected."""

    status = 500


class InvalidRequest(ServingError):
    status = 400


class NotFound(ServingError):
    status = 404


class PayloadTooLarge(ServingError):
    status = 413


class Unavailable(ServingError):
    status = 503


def json_response(body: object, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, mimetype="application/json")


def too_long(max_body_bytes: int) -> PayloadTooLarge:
    length = f"a body of {request.content_length} bytes" if request.content_length else "the body"
    return PayloadTooLarge(f"{length} is too long: at most {max_body_bytes} bytes are taken (SERVING_MAX_BODY_BYTES)")


def _discard_body(max_bytes: int) -> None:
    """Reads on for a while: a client that sends all of its body before it looks for an answer would else see a broken
    connection. Who sends more than `max_bytes`, or for longer than DISCARD_SECONDS, does."""
    stream, left = request.environ["wsgi.input"], min(max_bytes, request.content_length or max_bytes)
    connection = request.environ.get("gunicorn.socket")
    deadline = time.monotonic() + DISCARD_SECONDS
    try:
        while left > 0 and (patience := deadline - time.monotonic()) > 0:
            if connection is not None:
                connection.settimeout(patience)
            chunk = stream.read(min(left, 1 << 16))
            if not chunk:
                return
            left -= len(chunk)
    except OSError:
        pass  # the client stopped sending, or is gone
    finally:
        if connection is not None:
            connection.settimeout(None)


def register(app: Flask, max_body_bytes: int) -> None:
    @app.errorhandler(Exception)
    def answer(error: Exception) -> Response:
        if isinstance(error, ServingError) and error.status < 500:
            return json_response({"error": str(error)}, error.status)
        if isinstance(error, HTTPException):
            return _answer_http_exception(error)
        logger.error("%s %s failed", request.method, request.path, exc_info=error)
        if isinstance(error, ServingError):
            return json_response({"error": str(error)}, error.status)
        return json_response({"error": "internal error; the service's log has the details"}, 500)

    def _answer_http_exception(error: HTTPException) -> Response:
        """Werkzeug's own errors: no route, wrong method, body too long."""
        status = error.code or 500
        if isinstance(error, RequestEntityTooLarge):
            _discard_body(8 * max_body_bytes)
            if (request.content_length or max_body_bytes) < max_body_bytes:
                message = f"the form has too many parts: at most {app.config['MAX_FORM_PARTS']} are taken"
            else:
                message = str(too_long(max_body_bytes))
        elif status in (404, 405) and request.path.startswith("/v1/"):
            # TensorFlow Serving answers 400 here, in these words.
            status, message = 400, f"Malformed request: {request.method} {request.path}"
        elif status == 404:
            message = f"no such route: {request.method} {request.path}"
        elif status == 405:
            allowed = ", ".join(sorted(getattr(error, "valid_methods", None) or ()))
            message = f"{request.path} does not take {request.method}; it takes {allowed}"
        else:
            message = error.description or error.name
        response = json_response({"error": message}, status)
        if status == 405:
            response.headers.extend(error.get_headers())
            response.mimetype = "application/json"
        return response
