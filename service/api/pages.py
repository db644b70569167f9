"""The pages for people, and what they are made of."""

from pathlib import Path

from flask import Blueprint, send_from_directory
from flask import Response as FlaskResponse

from service.api.flask_views import json_response
from service.api.openapi import document

TEMPLATES = Path(__file__).parent.parent / "templates"
STATIC = Path(__file__).parent.parent / "static"


def blueprint() -> Blueprint:
    views = Blueprint("pages", __name__)

    @views.get("/")
    def playground() -> FlaskResponse:
        return send_from_directory(TEMPLATES, "playground.html")

    @views.get("/docs")
    def docs() -> FlaskResponse:
        return send_from_directory(TEMPLATES, "docs.html")

    @views.get("/openapi.json")
    def openapi() -> FlaskResponse:
        return json_response(document())

    @views.get("/static/<path:file>")
    def static(file: str) -> FlaskResponse:
        # A new release must not meet scripts of the one before: the browser asks each time, and mostly gets a 304.
        return send_from_directory(STATIC, file, max_age=0)

    return views
