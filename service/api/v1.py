"""TensorFlow Serving's REST API, and pictures as requests."""

from collections.abc import Mapping

from flask import Blueprint, Response, request

from service import classification
from service.api import v1_codec, v1_describe
from service.api.v1_codec import Body
from service.calls import current_call
from service.errors import InvalidRequest, json_response, too_long
from service.image import picture_batch
from service.inference import Inference
from service.registry import LoadedVersion
from service.settings import Settings
from service.signature import DEFAULT_SIGNATURE, Signature
from service.tensors import Array

_PLACES = (
    "/v1/models/<name:model>",
    "/v1/models/<name:model>/versions/<version>",
    "/v1/models/<name:model>/labels/<label>",
)
_VERB = ":<any(predict, classify, regress):verb>"


def blueprint(inference: Inference, settings: Settings) -> Blueprint:
    views = Blueprint("v1", __name__)

    def answer(verb: str, model: str, version: str | None = None, label: str | None = None) -> Response:
        loaded = inference.registry.get(model, _number(version), label)
        current_call().found(loaded)
        if pictures := _pictures(settings.max_body_bytes):
            body = Body({}, request.args.get("signature_name") or DEFAULT_SIGNATURE)
        else:
            # TensorFlow Serving reads JSON whatever the content type says; so does this.
            body = v1_codec.parse_body(_body(settings.max_body_bytes))
        signature = loaded.signature(body.signature_name)
        if pictures:
            inputs = picture_batch(pictures, signature, loaded.config.image, settings.max_image_pixels)
        elif verb == "predict":
            inputs = v1_codec.decode_predict(body, signature)
        else:
            inputs = v1_codec.decode_examples(body, signature)
        outputs = inference.infer(loaded, body.signature_name, inputs)
        return _encode(verb, loaded, signature, outputs, body)

    def status(model: str, version: str | None = None, label: str | None = None) -> Response:
        number = _number(version) if label is None else inference.registry.get(model, label=label).version
        return json_response(v1_describe.model_version_status(inference.registry, model, number))

    def metadata(model: str, version: str | None = None, label: str | None = None) -> Response:
        loaded = inference.registry.get(model, _number(version), label)
        current_call().found(loaded)
        return json_response(v1_describe.metadata(loaded))

    for place in _PLACES:
        views.add_url_rule(place + _VERB, "answer", answer, methods=["POST"])
        views.add_url_rule(place, "status", status, methods=["GET"])
        views.add_url_rule(place + "/metadata", "metadata", metadata, methods=["GET"])

    @views.get("/v1/models")
    def models() -> Response:
        return json_response({"models": sorted(inference.registry.statuses())})

    return views


def _pictures(max_body_bytes: int) -> dict[str, bytes]:
    """The request's pictures; none where its content type is neither image/* nor a form."""
    if request.mimetype.startswith("image/"):
        return {"the body": _body(max_body_bytes)}
    if request.mimetype == "multipart/form-data":
        files = {
            f"file {number} ({file.filename or field})": file.read()
            for number, (field, file) in enumerate(request.files.items(multi=True), start=1)
        }
        if not files:
            raise InvalidRequest("the form has no file; expected one or several pictures as files")
        return files
    return {}


def _body(max_body_bytes: int) -> bytes:
    data = request.get_data(cache=False)
    if len(data) > max_body_bytes:
        raise too_long(max_body_bytes)
    return data


def _encode(
    verb: str, loaded: LoadedVersion, signature: Signature, outputs: Mapping[str, Array], body: Body
) -> Response:
    if verb == "predict":
        text = v1_codec.encode_predictions(outputs, body.is_row_format)
    elif verb == "classify":
        text = v1_codec.encode_results(classification.classify(loaded, signature, outputs, _top_k()))
    else:
        text = v1_codec.encode_results(classification.regress(loaded, signature, outputs))
    return Response(text, mimetype="application/json")


def _top_k() -> int | None:
    text = request.args.get("top_k")
    if text is None:
        return None
    if not _is_whole_number(text) or int(text) == 0:
        raise InvalidRequest(f"top_k={text[:40]!r}: expected a whole number of at least 1")
    return int(text)


def _number(version: str | None) -> int | None:
    if version is None:
        return None
    if not _is_whole_number(version):
        raise InvalidRequest(f"Failed to convert version: {version[:40]} to numeric; expected a whole number")
    return int(version)


def _is_whole_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18  # within int64, as everywhere else
