"""Flask's requests and responses as the views' own, for the long road."""

import flask
from flask import Flask, Response
from werkzeug.exceptions import BadRequest

from service.http import Answer, Request


def register(app: Flask) -> None:
    @app.before_request
    def refuse_what_is_read_otherwise() -> None:
        # Werkzeug takes all slashes that a path begins with for one. The server's guard does not, and would let in to
        # //metrics whom it keeps from /metrics.
        if flask.request.environ["PATH_INFO"].startswith("//"):
            raise BadRequest("Malformed request: the path begins with more than one slash")


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


def response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, dict(answer.headers), content_type=answer.content_type)
