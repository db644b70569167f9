"""TensorFlow Serving's REST API, and pictures as requests."""

from collections.abc import Mapping

from flask import Response as FlaskResponse

from service.api.flask_app import View, current_request, json_response
from service.api.routes import Match, parse_version
from service.api.v1 import decode as v1_decode
from service.api.v1 import describe, encode
from service.api.v1.decode import Body, pictures_of
from service.errors import InvalidRequest
from service.http import Request, Response
from service.inference import classification
from service.inference.context import Prediction
from service.inference.picture_memory import PictureMemory, Share
from service.inference.scores import Inferred, outlier_score_headers
from service.inference.version import LoadedVersion
from service.lifecycle.registry import Find, Registry
from service.lifecycle.repository import version_number
from service.settings import Settings
from service.tensors.dtypes import Array
from service.tensors.image import picture_batch, takes_pictures
from service.tensors.signature import DEFAULT_SIGNATURE, Signature


def decode(settings: Settings, memory: PictureMemory, find: Find, match: Match, request: Request) -> Prediction:
    """A request for `:predict`, `:classify` or `:regress`. Raises ServingError."""
    verb, version, label = match.route.verb, match.parameters.get("version"), match.parameters.get("label")
    loaded = find(match.model, None if version is None else parse_version(version), label)
    request.context.found(loaded)
    loaded.health.check()
    body, inputs, is_of_pictures = _decode(loaded, settings, memory, request, verb)
    request.context.decoded()

    def encode_response(inferred: Inferred) -> Response:
        outputs = inferred.outputs
        if verb == "predict" and not is_of_pictures:
            return Response(200, encode.encode_predictions(outputs, body.is_row_format))
        headers = outlier_score_headers(inferred.outlier_scores)
        if verb == "predict":
            return Response(200, encode.encode_predictions(outputs, body.is_row_format), headers=headers)
        if verb == "classify":
            rankings = classification.classify(loaded, body.signature_name, outputs, _top_k(request))
            return Response(200, encode.encode_results(rankings), headers=headers)
        numbers = classification.regress(loaded, body.signature_name, outputs)
        return Response(200, encode.encode_results(numbers))

    return Prediction(loaded, body.signature_name, inputs, encode_response, request.context)


def views(registry: Registry) -> dict[str, View]:
    def models() -> FlaskResponse:
        return json_response({"models": sorted(registry.statuses())})

    def status(model: str, version: str | None = None, label: str | None = None) -> FlaskResponse:
        number = parse_version(version) if label is None else registry.get(model, label=label).version
        return json_response(describe.model_version_status(registry, model, number))

    def metadata(model: str, version: str | None = None, label: str | None = None) -> FlaskResponse:
        loaded = registry.get(model, parse_version(version), label)
        current_request().context.found(loaded)
        return json_response(describe.metadata(loaded))

    return {"v1.models": models, "v1.status": status, "v1.metadata": metadata}


def _decode(
    loaded: LoadedVersion, settings: Settings, memory: PictureMemory, request: Request, verb: str
) -> tuple[Body, Mapping[str, Array], bool]:
    """The body, its inputs, and whether they came as pictures."""
    if pictures := pictures_of(request):
        body = Body({}, request.query.get("signature_name") or DEFAULT_SIGNATURE)
        signature, share = loaded.signature(body.signature_name), memory.share(request.context.deadline)
        return body, _batch(pictures, loaded, settings, signature, share), True
    default = loaded.engine.signatures.get(DEFAULT_SIGNATURE)
    if default and (numbers := v1_decode.decode_numbers(request.body, default)):
        return Body({}, DEFAULT_SIGNATURE), numbers, False
    # TensorFlow Serving reads JSON whatever the content type says; so does this.
    body = v1_decode.parse_body(request.body)
    signature = loaded.signature(body.signature_name)
    decode = v1_decode.decode_predict if verb == "predict" else v1_decode.decode_examples
    if not takes_pictures(signature, loaded.config.image):
        return body, decode(body, signature), False
    sent: list[str] = []
    share = memory.share(request.context.deadline)

    def read(files: Mapping[str, bytes]) -> Array:
        sent.extend(files)
        (array,) = _batch(files, loaded, settings, signature, share).values()
        return array

    inputs = decode(body, signature, read)
    return body, inputs, bool(sent)


def _batch(
    pictures: Mapping[str, bytes], loaded: LoadedVersion, settings: Settings, signature: Signature, share: Share
) -> dict[str, Array]:
    limits = (settings.max_image_pixels, settings.max_buffered_bytes)
    return picture_batch(pictures, signature, loaded.config.image, *limits, share)


def _top_k(request: Request) -> int | None:
    text = request.query.get("top_k")
    if text is None:
        return None
    number = version_number(text)
    if not number:
        raise InvalidRequest(f"top_k={text[:40]!r}: expected a whole number of at least 1")
    return number
