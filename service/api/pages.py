"""The pages for people, and the files that they are made of."""

from pathlib import Path

from flask import send_from_directory

from service.api.flask_app import View, json_response
from service.api.openapi import document

TEMPLATES = Path(__file__).parent.parent / "templates"
STATIC = Path(__file__).parent.parent / "static"


def views() -> dict[str, View]:
    return {
        "pages.playground": lambda: send_from_directory(TEMPLATES, "playground.html"),
        "pages.docs": lambda: send_from_directory(TEMPLATES, "docs.html"),
        "pages.openapi": lambda: json_response(document()),
        # A new release must not meet scripts of the one before: the browser asks each time, and mostly gets a 304.
        "pages.static": lambda file: send_from_directory(STATIC, file, max_age=0),
    }
