"""What the page asks beyond the protocols: what a version is, what it saw, which parts mattered."""

from io import BytesIO

import numpy as np
from flask import Blueprint, request
from flask import Response as FlaskResponse
from PIL import Image

from service.api import flask_views
from service.api.flask_views import json_response
from service.api.playground import describe as playground_describe
from service.api.playground.occlusion import occlusion_map
from service.api.playground.version_files import VersionFiles
from service.api.v1 import views as v1
from service.errors import InvalidRequest
from service.inference.context import current_context
from service.inference.infer import Inference
from service.inference.version import LoadedVersion
from service.lifecycle.repository import Repository
from service.settings import Settings
from service.tensors.dtypes import Array
from service.tensors.image import picture_batch
from service.tensors.signature import DEFAULT_SIGNATURE

_VERSION = "/playground/models/<name:model>/versions/<version>"


def blueprint(inference: Inference, repository: Repository, settings: Settings) -> Blueprint:
    views = Blueprint("playground", __name__)
    registry = inference.registry

    def find(model: str, version: str) -> LoadedVersion:
        return registry.get(model, v1.version_of(version))

    def files(loaded: LoadedVersion) -> VersionFiles:
        return VersionFiles(repository.path(loaded.model, loaded.version))

    @views.get("/playground/models")
    def models() -> FlaskResponse:
        return json_response(playground_describe.models(registry))

    @views.get(_VERSION)
    def version(model: str, version: str) -> FlaskResponse:
        loaded = find(model, version)
        return json_response(playground_describe.version(loaded, files(loaded)))

    @views.get(_VERSION + "/files/<path:file>")
    def file(model: str, version: str, file: str) -> FlaskResponse:
        content, content_type = files(find(model, version)).read(file)
        return FlaskResponse(content, content_type=content_type)

    @views.post(_VERSION + "/seen")
    def seen(model: str, version: str) -> FlaskResponse:
        """The picture as the model gets it."""
        ((_, rows),) = _picture(find(model, version), settings).items()
        stream = BytesIO()
        Image.fromarray(np.clip(rows[0], 0, 255).astype(np.uint8).squeeze()).save(stream, "PNG")
        return FlaskResponse(stream.getvalue(), content_type="image/png")

    @views.post(_VERSION + "/<any(predict, classify, regress):verb>")
    def try_out(model: str, version: str, verb: str) -> FlaskResponse:
        """What the page shows: the same question to the same version by the v1 API would count as traffic."""
        request = flask_views.current_request()
        prediction = v1.decode(registry.get, settings, current_context(), request, verb, model, version)
        return flask_views.response(inference.try_out(prediction))

    @views.post(_VERSION + "/occlusion")
    def occlusion(model: str, version: str) -> FlaskResponse:
        loaded = find(model, version)
        loaded.health.check()
        inference.note_tried_out(loaded)
        found = occlusion_map(
            loaded,
            DEFAULT_SIGNATURE,
            _picture(loaded, settings),
            request.args.get("label", default=""),
            current_context().check_deadline,
        )
        return json_response({"label": found.label, "score": found.score, "drops": found.drops.tolist()})

    return views


def _picture(loaded: LoadedVersion, settings: Settings) -> dict[str, Array]:
    """The request's one picture, as the input of the default signature."""
    pictures = v1.pictures_of(flask_views.current_request())
    if len(pictures) != 1:
        raise InvalidRequest(f"{len(pictures)} pictures; expected one, as the body or as the only file of a form")
    signature, limits = loaded.signature(DEFAULT_SIGNATURE), (settings.max_image_pixels, settings.max_buffered_bytes)
    return picture_batch(pictures, signature, loaded.config.image, *limits)
