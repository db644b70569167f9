"""What the page asks beyond the protocols: what a version is, what it saw, which parts mattered."""

from io import BytesIO

import numpy as np
from flask import Blueprint, Response, request
from PIL import Image

from service.api import flask_views, playground_describe
from service.api.v1 import pictures_of, version_of
from service.calls import current_call
from service.errors import InvalidRequest, json_response
from service.image import picture_batch
from service.occlusion import occlusion_map
from service.registry import LoadedVersion, Registry
from service.repository import Repository
from service.settings import Settings
from service.signature import DEFAULT_SIGNATURE
from service.tensors import Array
from service.version_files import VersionFiles

_VERSION = "/playground/models/<name:model>/versions/<version>"


def blueprint(registry: Registry, repository: Repository, settings: Settings) -> Blueprint:
    views = Blueprint("playground", __name__)

    def find(model: str, version: str) -> LoadedVersion:
        return registry.get(model, version_of(version))

    def files(loaded: LoadedVersion) -> VersionFiles:
        return VersionFiles(repository.path(loaded.model, loaded.version))

    @views.get("/playground/models")
    def models() -> Response:
        return json_response(playground_describe.models(registry))

    @views.get(_VERSION)
    def version(model: str, version: str) -> Response:
        loaded = find(model, version)
        return json_response(playground_describe.version(loaded, files(loaded)))

    @views.get(_VERSION + "/files/<path:file>")
    def file(model: str, version: str, file: str) -> Response:
        content, content_type = files(find(model, version)).read(file)
        return Response(content, content_type=content_type)

    @views.post(_VERSION + "/seen")
    def seen(model: str, version: str) -> Response:
        """The picture as the model gets it."""
        ((_, rows),) = _picture(find(model, version), settings).items()
        stream = BytesIO()
        Image.fromarray(np.clip(rows[0], 0, 255).astype(np.uint8).squeeze()).save(stream, "PNG")
        return Response(stream.getvalue(), content_type="image/png")

    @views.post(_VERSION + "/occlusion")
    def occlusion(model: str, version: str) -> Response:
        loaded = find(model, version)
        loaded.health.check()
        found = occlusion_map(
            loaded,
            DEFAULT_SIGNATURE,
            _picture(loaded, settings),
            request.args.get("label", default=""),
            current_call().check_deadline,
        )
        return json_response({"label": found.label, "score": found.score, "drops": found.drops.tolist()})

    return views


def _picture(loaded: LoadedVersion, settings: Settings) -> dict[str, Array]:
    """The request's one picture, as the input of the default signature."""
    pictures = pictures_of(flask_views.current_request())
    if len(pictures) != 1:
        raise InvalidRequest(f"{len(pictures)} pictures; expected one, as the body or as the only file of a form")
    signature, limits = loaded.signature(DEFAULT_SIGNATURE), (settings.max_image_pixels, settings.max_buffered_bytes)
    return picture_batch(pictures, signature, loaded.config.image, *limits)
