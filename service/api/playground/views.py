"""What the page asks for beyond the protocols: what a version is, how it sees a picture, which parts mattered."""

from io import BytesIO

import numpy as np
from flask import Response as FlaskResponse
from PIL import Image

from service.api.flask_app import View, current_request, json_response
from service.api.playground import describe
from service.api.playground.occlusion import occlusion_map
from service.api.playground.version_files import VersionFiles
from service.api.routes import parse_version
from service.api.v1.decode import pictures_of
from service.errors import InvalidRequest
from service.inference.infer import Inference
from service.inference.picture_memory import PictureMemory
from service.inference.version import LoadedVersion
from service.lifecycle.registry import Registry
from service.lifecycle.repository import Repository
from service.settings import Settings
from service.tensors.dtypes import Array
from service.tensors.image import picture_batch
from service.tensors.signature import DEFAULT_SIGNATURE


def views(
    registry: Registry, inference: Inference, repository: Repository, settings: Settings, memory: PictureMemory
) -> dict[str, View]:
    def find(model: str, version: str) -> LoadedVersion:
        return registry.get(model, parse_version(version))

    def files(loaded: LoadedVersion) -> VersionFiles:
        return VersionFiles(repository.path(loaded.model, loaded.version))

    def models() -> FlaskResponse:
        try:
            folders = repository.versions()
        except OSError:
            folders = {}
        return json_response(describe.models(registry, folders))

    def version(model: str, version: str) -> FlaskResponse:
        loaded = find(model, version)
        return json_response(describe.version(loaded, files(loaded)))

    def file(model: str, version: str, file: str) -> FlaskResponse:
        content, content_type = files(find(model, version)).read(file)
        return FlaskResponse(content, content_type=content_type)

    def seen(model: str, version: str) -> FlaskResponse:
        """The picture as the model gets it."""
        ((_, rows),) = _picture(find(model, version), settings, memory).items()
        stream = BytesIO()
        Image.fromarray(np.clip(rows[0], 0, 255).astype(np.uint8).squeeze()).save(stream, "PNG")
        return FlaskResponse(stream.getvalue(), content_type="image/png")

    def occlusion(model: str, version: str) -> FlaskResponse:
        loaded, request = find(model, version), current_request()
        loaded.health.check()
        inference.count_tried_out(loaded)
        found = occlusion_map(
            loaded,
            DEFAULT_SIGNATURE,
            _picture(loaded, settings, memory),
            request.query.get("label", ""),
            request.context.check_deadline,
        )
        return json_response({"label": found.label, "score": found.score, "drops": found.drops.tolist()})

    functions = (models, version, file, seen, occlusion)
    return {f"playground.{function.__name__}": function for function in functions}


def _picture(loaded: LoadedVersion, settings: Settings, memory: PictureMemory) -> dict[str, Array]:
    """The request's one picture, as the input of the default signature."""
    request = current_request()
    pictures = pictures_of(request)
    if len(pictures) != 1:
        raise InvalidRequest(f"{len(pictures)} pictures; expected one, as the body or as the only file of a form")
    signature, limits = loaded.signature(DEFAULT_SIGNATURE), (settings.max_image_pixels, settings.max_buffered_bytes)
    share = memory.share(request.context.deadline)
    return picture_batch(pictures, signature, loaded.config.image, *limits, share)
