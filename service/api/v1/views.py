"""TensorFlow Serving's REST API, and pictures as requests."""

from collections.abc import Mapping

from flask import Blueprint
from flask import Response as FlaskResponse

from service.api import flask_views
from service.api.flask_views import json_response
from service.api.v1 import decode as v1_codec
from service.api.v1 import describe as v1_describe
from service.api.v1 import encode as v1_answers
from service.api.v1.decode import Body
from service.errors import InvalidRequest
from service.http import Request, Response
from service.inference import classification
from service.inference.context import Prediction, RequestContext, current_context
from service.inference.infer import Inference
from service.inference.scores import Inferred, outlier_score_headers
from service.inference.version import LoadedVersion
from service.lifecycle.registry import Find
from service.lifecycle.repository import MAX_VERSION, version_number
from service.settings import Settings
from service.tensors.dtypes import Array
from service.tensors.image import picture_batch, takes_pictures
from service.tensors.signature import DEFAULT_SIGNATURE, Signature

_PLACES = (
    "/v1/models/<name:model>",
    "/v1/models/<name:model>/versions/<version>",
    "/v1/models/<name:model>/labels/<label>",
)
_VERB = ":<any(predict, classify, regress):verb>"


def decode(
    find: Find,
    settings: Settings,
    context: RequestContext,
    request: Request,
    verb: str,
    model: str,
    version: str | None = None,
    label: str | None = None,
) -> Prediction:
    """A request for `:predict`, `:classify` or `:regress`. Raises ServingError."""
    loaded = find(model, version_of(version), label)
    context.found(loaded)
    loaded.health.check()
    body, inputs, is_of_pictures = _decode(loaded, settings, request, pictures_of(request), verb)
    context.decoded()

    def encode(inferred: Inferred) -> Response:
        outputs = inferred.outputs
        if verb == "predict":
            predictions = v1_answers.encode_predictions(outputs, body.is_row_format)
            return Response(
                200, predictions, headers=outlier_score_headers(inferred.outlier_scores) if is_of_pictures else ()
            )
        if verb == "classify":
            rankings = classification.classify(loaded, body.signature_name, outputs, _top_k(request))
            return Response(
                200, v1_answers.encode_results(rankings), headers=outlier_score_headers(inferred.outlier_scores)
            )
        numbers = classification.regress(loaded, body.signature_name, outputs)
        return Response(200, v1_answers.encode_results(numbers))

    return Prediction(loaded, body.signature_name, inputs, encode, context)


def blueprint(inference: Inference, settings: Settings) -> Blueprint:
    views = Blueprint("v1", __name__)
    registry = inference.registry

    def act(**asked: str) -> FlaskResponse:
        prediction = decode(registry.get, settings, current_context(), flask_views.current_request(), **asked)
        return flask_views.response(inference.answer(prediction))

    def status(model: str, version: str | None = None, label: str | None = None) -> FlaskResponse:
        number = version_of(version) if label is None else registry.get(model, label=label).version
        return json_response(v1_describe.model_version_status(registry, model, number))

    def metadata(model: str, version: str | None = None, label: str | None = None) -> FlaskResponse:
        loaded = registry.get(model, version_of(version), label)
        current_context().found(loaded)
        return json_response(v1_describe.metadata(loaded))

    for place in _PLACES:
        views.add_url_rule(place + _VERB, "act", act, methods=["POST"])
        views.add_url_rule(place, "status", status, methods=["GET"])
        views.add_url_rule(place + "/metadata", "metadata", metadata, methods=["GET"])

    @views.get("/v1/models")
    def models() -> FlaskResponse:
        return json_response({"models": sorted(registry.statuses())})

    return views


def _decode(
    loaded: LoadedVersion, settings: Settings, request: Request, pictures: Mapping[str, bytes], verb: str
) -> tuple[Body, Mapping[str, Array], bool]:
    """And whether it was pictures that were sent."""
    if pictures:
        body = Body({}, request.args.get("signature_name") or DEFAULT_SIGNATURE)
        return body, _batch(pictures, loaded, settings, loaded.signature(body.signature_name)), True
    default = loaded.engine.signatures.get(DEFAULT_SIGNATURE)
    if default and (numbers := v1_codec.decode_numbers(request.body, default)):
        return Body({}, DEFAULT_SIGNATURE), numbers, False
    # TensorFlow Serving reads JSON whatever the content type says; so does this.
    body = v1_codec.parse_body(request.body)
    signature = loaded.signature(body.signature_name)
    decode = v1_codec.decode_predict if verb == "predict" else v1_codec.decode_examples
    if not takes_pictures(signature, loaded.config.image):
        return body, decode(body, signature), False
    sent: list[str] = []

    def read(files: Mapping[str, bytes]) -> Array:
        sent.extend(files)
        (array,) = _batch(files, loaded, settings, signature).values()
        return array

    inputs = decode(body, signature, read)
    return body, inputs, bool(sent)


def _batch(
    pictures: Mapping[str, bytes], loaded: LoadedVersion, settings: Settings, signature: Signature
) -> dict[str, Array]:
    limits = (settings.max_image_pixels, settings.max_buffered_bytes)
    return picture_batch(pictures, signature, loaded.config.image, *limits)


def pictures_of(request: Request) -> Mapping[str, bytes]:
    """The request's pictures; none where it is neither a picture nor a form."""
    if request.mimetype.startswith("image/"):
        return {"the body": request.body}
    if request.files is not None and not request.files:
        raise InvalidRequest("the form has no file; expected one or several pictures as files")
    return request.files or {}


def _top_k(request: Request) -> int | None:
    text = request.args.get("top_k")
    if text is None:
        return None
    number = version_number(text)
    if not number:
        raise InvalidRequest(f"top_k={text[:40]!r}: expected a whole number of at least 1")
    return number


def version_of(text: str | None) -> int | None:
    """The version that a path names; None where it names none. Raises InvalidRequest, in TensorFlow Serving's words."""
    if text is None:
        return None
    number = version_number(text)
    if number is None:
        raise InvalidRequest(
            f"Malformed request: Failed to convert version: {text[:40]} to numeric; expected a whole number of at most "
            f"{MAX_VERSION}"
        )
    return number
