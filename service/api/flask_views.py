"""Flask's requests and responses as the views' own, for the long road."""

import flask
from flask import Response

from service.messages import Answer, Request


def current_request() -> Request:
    asked = flask.request
    headers = {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in asked.headers}
    if asked.mimetype == "multipart/form-data":
        files = {
            f"file {number} ({file.filename or field})": file.read()
            for number, (field, file) in enumerate(asked.files.items(multi=True), start=1)
        }
        return Request(asked.mimetype, asked.args, headers, files=files)
    return Request(asked.mimetype, asked.args, headers, asked.get_data(cache=False))


def response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, dict(answer.headers), content_type=answer.content_type)
