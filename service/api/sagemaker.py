"""Amazon SageMaker's contract for containers: requests of v1 at other paths and in other forms, and models by request.

The forms are those of SageMaker's own TensorFlow Serving container; /ping is a route of health.
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
https://docs.aws.amazon.com/sagemaker/latest/dg/mms-container-apis.html
https://github.com/aws/sagemaker-tensorflow-serving-container
"""

import csv
import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import orjson
from flask import Response as FlaskResponse

from service.api.flask_app import View, current_request, json_response
from service.api.routes import VERBS, Match, Route
from service.api.v2.views import check_admin
from service.errors import InsufficientStorage, InvalidRequest, NotFound, UnsupportedMediaType
from service.http import Request, Response
from service.inference.context import Prediction
from service.inference.scores import Inferred
from service.lifecycle.policies import ModelPolicy
from service.lifecycle.registry import Find, Registry
from service.lifecycle.repository import find_base_paths, model_name_fault
from service.lifecycle.watcher import Watcher
from service.runtime.cgroup import limited_memory
from service.runtime.utf8 import NotUtf8, without_mark
from service.settings import Settings

ATTRIBUTES_HEADER = b"x-amzn-sagemaker-custom-attributes"
# The last one is what curl says.
JSON_TYPES = (
    "",
    "application/json",
    "application/jsonlines",
    "application/jsons",
    "application/x-www-form-urlencoded",
)
# Of the list of models.
PAGE_SIZE = 1000

_ATTRIBUTE = re.compile(r"(tfs-[a-z-]+)=([^,]+)")
_OF_V1 = re.compile(rb'"(?:instances|inputs|examples)"\s*:')
# A value, and another one in a line below.
_BETWEEN_LINES = re.compile(rb"[}\]][ \t]*\r?\n\s*[{\[]")
_ROWS = re.compile(rb"\s*\[\s*[\[{]")
_NO_MEMORY = re.compile("memory|resource.?exhausted", re.IGNORECASE)


def address(default_model: Callable[[], str], match: Match, request: Request) -> Match:
    """The model of the path, or that the custom attributes name; and their version and method. Raises InvalidRequest.

    `default_model`: of requests that name none.
    """
    header = request.headers.get(ATTRIBUTES_HEADER)
    attributes = dict(_ATTRIBUTE.findall(header.decode("latin-1"))) if header else {}
    verb = attributes.get("tfs-method", "predict")
    if verb not in VERBS:
        raise InvalidRequest(f"custom attributes: tfs-method={verb[:40]}; expected one of {', '.join(VERBS)}")
    parameters = {"version": attributes["tfs-model-version"]} if "tfs-model-version" in attributes else {}
    model = match.model or attributes.get("tfs-model-name") or default_model()
    return Match(_with_verb(match.route, verb), parameters, model)


@lru_cache
def _with_verb(route: Route, verb: str) -> Route:
    return replace(route, verb=verb)


def decode(
    decode_v1: Callable[[Find, Match, Request], Prediction], find: Find, match: Match, request: Request
) -> Prediction:
    """Raises ServingError."""
    prediction = decode_v1(find, match, msgspec.structs.replace(request, body=_body_of_v1(request)))
    if b"application/jsonlines" not in request.headers.get(b"accept", b""):
        return prediction
    return msgspec.structs.replace(prediction, encode=lambda inferred: _as_line(prediction.encode, inferred))


def views(registry: Registry, settings: Settings, watcher: Watcher) -> dict[str, View]:
    """The calls by which the platform loads and unloads models."""

    def models() -> FlaskResponse:
        last = current_request().query.get("next_page_token", "")
        names = [name for name in sorted(registry.defaults()) if name > last]
        page: dict[str, object] = {"models": [_described(registry, name) for name in names[:PAGE_SIZE]]}
        if len(names) > PAGE_SIZE:
            page["nextPageToken"] = names[PAGE_SIZE - 1]
        return json_response(page)

    def model(model: str) -> FlaskResponse:
        if model not in registry.defaults():
            raise NotFound(f"{model} is not loaded")
        return json_response(_described(registry, model))

    def load() -> FlaskResponse:
        check_admin(settings)
        name, url = _load_request(current_request().body)
        policy = ModelPolicy(base_path=str(_base_path(url)))
        if name not in registry.defaults():
            _check_memory(Path(policy.base_path), settings.workers)
        try:
            watcher.add(name, policy)
        except InvalidRequest as error:
            if _NO_MEMORY.search(str(error)):
                raise InsufficientStorage(str(error)) from None
            raise
        return json_response(_described(registry, name))

    def unload(model: str) -> FlaskResponse:
        check_admin(settings)
        watcher.remove(model)
        return json_response({})

    return {f"sagemaker.{function.__name__}": function for function in (models, model, load, unload)}


def _body_of_v1(request: Request) -> bytes:
    """The body as v1 takes it. Raises ServingError."""
    mimetype, body = request.mimetype, request.body
    if mimetype.startswith("image/") or mimetype == "multipart/form-data":
        return body
    if mimetype == "text/csv":
        return _rows_of_csv(body)
    if mimetype not in JSON_TYPES:
        raise UnsupportedMediaType(
            f"Unsupported Media Type: {mimetype[:80]}; expected application/json, application/jsonlines, text/csv or a "
            "picture"
        )
    if _OF_V1.search(body):
        return body
    if _BETWEEN_LINES.search(body):
        return b'{"instances":[%s]}' % b",".join(line for line in body.splitlines() if line.strip())
    # A list of lists or objects is one of rows; any other value is one row.
    return (b'{"instances":%s}' if _ROWS.match(body) else b'{"instances":[%s]}') % body


def _rows_of_csv(body: bytes) -> bytes:
    try:
        lines = bytes(without_mark(body)).decode().splitlines()
    except (NotUtf8, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the CSV is no UTF-8: {error}") from None
    lines = [line for line in lines if line.strip()]
    rows: list[list[Any]]
    try:
        # Numbers, and strings in quotes, are mostly as in JSON, which is much the quicker way.
        rows = orjson.loads(f"[[{'],['.join(lines)}]]") if lines else []
    except orjson.JSONDecodeError:
        rows = [_row(cells) for cells in csv.reader(lines, skipinitialspace=True)]
    # With one column a row is a value.
    return orjson.dumps({"instances": [row[0] if len(row) == 1 else row for row in rows]})


def _row(cells: list[str]) -> list[Any]:
    """Numbers, if all are."""
    try:
        return list(map(float, cells))
    except ValueError:
        return cells


def _as_line(encode: Callable[[Inferred], Response], inferred: Inferred) -> Response:
    """JSON as the service writes it is one line."""
    return msgspec.structs.replace(encode(inferred), content_type="application/jsonlines")


def _described(registry: Registry, model: str) -> dict[str, str]:
    loaded = registry.traffic(model).default
    folder = loaded.folder if loaded is not None else None
    return {"modelName": model, "modelUrl": str(folder.path.parent) if folder is not None else ""}


def _load_request(body: bytes) -> tuple[str, str]:
    """Name and folder. Raises InvalidRequest."""
    expected = 'expected {"model_name": "...", "url": "/opt/ml/models/.../model"}'
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is no JSON: {error.msg}; {expected}") from None
    name, url = (given.get(key) for key in ("model_name", "url")) if isinstance(given, dict) else (None, None)
    if not (isinstance(name, str) and name and isinstance(url, str) and url):
        raise InvalidRequest(f"the body names no model, or not its folder; {expected}")
    if fault := "its name has a slash" if "/" in name else model_name_fault(name):
        raise InvalidRequest(f"model_name: {name[:80]!a} cannot be served: {fault}")
    return name, url


def _base_path(url: str) -> Path:
    """The only folder with versions there. Raises NotFound."""
    try:
        found = list(find_base_paths(Path(url).absolute()).values())
    except ValueError:
        found = []
    if len(found) != 1:
        raise NotFound(
            f"there is no model in {url}, or more than one; expected <version>/saved_model.pb or "
            "export/Servo/<version>/saved_model.pb"
        )
    return found[0]


def _check_memory(base_path: Path, workers: int) -> None:
    """Raise InsufficientStorage where the limit leaves less than the files of the model take in every worker."""
    memory = limited_memory()
    if memory is None:
        return
    needed = workers * sum(file.stat().st_size for file in base_path.rglob("*") if file.is_file())
    left = memory.limit - memory.used
    if needed > left:
        raise InsufficientStorage(f"the model takes {needed} bytes of memory at least, and {left} are left")
