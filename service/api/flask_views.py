"""Flask's requests, responses and errors as the views' own."""

import flask
import orjson
from flask import Flask, g, request
from flask import Response as FlaskResponse
from werkzeug.exceptions import BadRequest, HTTPException, RequestEntityTooLarge

from service.errors import response_to_error
from service.http import Request, Response


def register(app: Flask) -> None:
    @app.before_request
    def refuse_what_is_read_otherwise() -> None:
        # Werkzeug takes all slashes that a path begins with for one. The server's guard does not, and would let in to
        # //metrics whom it keeps from /metrics.
        if flask.request.environ["PATH_INFO"].startswith("//"):
            raise BadRequest("Malformed request: the path begins with more than one slash")

    @app.errorhandler(Exception)
    def answer(error: Exception) -> FlaskResponse:
        if isinstance(error, HTTPException):
            return _answer_http_exception(error)
        return response(response_to_error(error, request.method, request.path, g.context.request_id))

    def _answer_http_exception(error: HTTPException) -> FlaskResponse:
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


def current_request() -> Request:
    asked = flask.request
    headers = {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in asked.headers}
    if asked.mimetype == "multipart/form-data":
        if not asked.mimetype_params.get("boundary"):
            raise BadRequest(
                "Content-Type multipart/form-data has no boundary; expected `multipart/form-data; boundary=...`, as "
                "HTTP libraries write it by themselves where no Content-Type is given"
            )
        files = {
            f"file {number} ({file.filename or field})": file.read()
            for number, (field, file) in enumerate(asked.files.items(multi=True), start=1)
        }
        return Request(asked.mimetype, asked.args, headers, files=files)
    return Request(asked.mimetype, asked.args, headers, asked.get_data(cache=False))


def json_response(body: object, status: int = 200) -> FlaskResponse:
    return FlaskResponse(orjson.dumps(body), status, mimetype="application/json")


def response(answer: Response) -> FlaskResponse:
    return FlaskResponse(answer.body, answer.status, dict(answer.headers), content_type=answer.content_type)
