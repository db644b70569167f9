"""Requests of TensorFlow Serving's REST API, and pictures, as tensors."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import orjson
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser
from werkzeug.http import parse_options_header

from service.api.numbers import decode_rows
from service.errors import InvalidRequest, PayloadTooLarge
from service.http import Request
from service.runtime.utf8 import NotUtf8, without_mark
from service.tensors.dtypes import Array
from service.tensors.image_file import looks_like_picture
from service.tensors.json import array_from_json, bytes_from_json, is_base64
from service.tensors.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from service.tensors.tf_example import encode_example

# Decodes picture files, by their names in messages, into the only input of a signature.
Pictures = Callable[[Mapping[str, bytes]], Array]

MAX_FORM_PARTS = 1000

_BODY_EXPECTED = 'expected {"instances": [...]} or {"inputs": ...}'
_EXAMPLES_EXPECTED = 'expected {"examples": [{feature: value, ...}, ...]} or {"instances": [...]}'


@dataclass(frozen=True, slots=True)
class Body:
    """The JSON of a request. A signature is needed to make tensors of it."""

    fields: dict[str, Any]
    signature_name: str

    @property
    def is_row_format(self) -> bool:
        return "inputs" not in self.fields


def parse_body(data: bytes) -> Body:
    """Parse a body. Raises InvalidRequest where it is not one JSON object, or signature_name is no string."""
    fields = parse_json(data, _BODY_EXPECTED)
    if not isinstance(fields, dict):
        raise InvalidRequest(f"Is not object: the body is a JSON {kind_of(fields)}; {_BODY_EXPECTED}")
    signature_name = fields.get("signature_name", DEFAULT_SIGNATURE)
    if not isinstance(signature_name, str):
        raise InvalidRequest("'signature_name' key must be a string value")
    return Body(fields, signature_name or DEFAULT_SIGNATURE)


def parse_json(data: bytes, expected: str) -> Any:
    """`expected`: of an empty body, for the message. Raises InvalidRequest."""
    try:
        return orjson.loads(without_mark(data))
    except NotUtf8 as error:
        raise InvalidRequest(f"JSON Parse error: Invalid value: {error}") from None
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"JSON Parse error: {_json_error(data, error, expected)}") from None


def decode_numbers(data: bytes, signature: Signature) -> dict[str, Array] | None:
    """The inputs of a body that is only `{"instances": ...}` with floats for the signature's only input: what
    `parse_body` and `decode_predict` give, in a fraction of the time. None for every other body."""
    if len(signature.inputs) != 1:
        return None
    ((name, spec),) = signature.inputs.items()
    array = decode_rows(data, spec)
    return None if array is None else {name: array}


def decode_predict(body: Body, signature: Signature, pictures: Pictures | None = None) -> dict[str, Array]:
    """`instances` (a list of rows) or `inputs` (columns) as the signature's tensors.

    `pictures`: decodes pictures, for a signature that takes them. `{"b64": ...}` in the place of a row is then the
    bytes of a picture.
    """
    given = [key for key in ("instances", "inputs") if key in body.fields]
    if not given:
        raise InvalidRequest(f"Missing 'inputs' or 'instances' key; {_BODY_EXPECTED}")
    if len(given) == 2:
        raise InvalidRequest(
            "Not formatted correctly: expecting only one of 'inputs' or 'instances' keys to exist; both are there"
        )
    if given == ["inputs"]:
        return _columns(body.fields["inputs"], signature, pictures)
    return _rows(body, "instances", signature, pictures)


def decode_example(fields: dict[str, Any], signature: Signature) -> dict[str, Array]:
    """The example that a version brings in its serving.json."""
    return decode_predict(Body(fields, DEFAULT_SIGNATURE), signature)


def decode_examples(body: Body, signature: Signature, pictures: Pictures | None = None) -> dict[str, Array]:
    """The body of :classify and :regress: `examples` with an optional `context`, or `instances`/`inputs`.

    A signature with one string input takes examples as serialized tf.train.Example; any other takes the features
    as its inputs of these names.
    """
    if "examples" not in body.fields and body.fields.keys() & {"instances", "inputs"}:
        return decode_predict(body, signature, pictures)
    context = _example(body.fields.get("context", {}), "context")
    if "examples" not in body.fields:
        raise InvalidRequest(f"key 'examples' is expected and was not found; {_EXAMPLES_EXPECTED}")
    if extra := body.fields.keys() & {"instances", "inputs"}:
        raise InvalidRequest(
            f"Not formatted correctly: expecting only one of 'examples' or {sorted(extra)[0]!r} keys to exist; "
            "both are there"
        )
    examples = body.fields["examples"]
    if not isinstance(examples, list):
        raise InvalidRequest(
            f"Expecting 'examples' value to be a list/array, not a JSON {kind_of(examples)}; {_EXAMPLES_EXPECTED}"
        )
    if not examples:
        raise InvalidRequest(f"'examples' value is an empty array; {_EXAMPLES_EXPECTED}")
    # A feature of the example counts more than the same one of the context.
    merged = [context | _example(example, f"examples[{row}]") for row, example in enumerate(examples)]
    inputs = list(signature.inputs.items())
    if len(inputs) == 1 and inputs[0][1].dtype == "DT_STRING":
        serialized = [encode_example(example, f"examples[{row}]") for row, example in enumerate(merged)]
        array = np.empty(len(serialized), object)
        array[:] = serialized
        return {inputs[0][0]: array}
    return _rows(Body({"examples": merged}, body.signature_name), "examples", signature, pictures)


def _example(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(
            f"{where}: Example must be JSON object but got JSON {kind_of(value)}; {_EXAMPLES_EXPECTED}"
        )
    return value


def _rows(body: Body, key: str, signature: Signature, pictures: Pictures | None) -> dict[str, Array]:
    rows = body.fields[key]
    if not isinstance(rows, list):
        raise InvalidRequest(f"Expecting '{key}' to be a list/array with an entry per row, not a JSON {kind_of(rows)}")
    if not rows:
        raise InvalidRequest(f"No values in '{key}' array; expected at least one row")
    if _is_named(rows[0]):
        for index, row in enumerate(rows):
            _check_names(row, index, key, signature)
        return {
            name: _tensor([row[name] for row in rows], spec, f"{key}[...][{name!r}]", pictures)
            for name, spec in signature.inputs.items()
        }
    for index, row in enumerate(rows):
        if _is_named(row):
            raise InvalidRequest(
                f"Expecting value/list but got object at item {index} of '{key}': {key}[0] has no input names, "
                f"{key}[{index}] has; expected them in every row or in none"
            )
    if len(signature.inputs) != 1:
        raise InvalidRequest(
            f"{key} is a plain list, but expecting list of objects, for the signature takes "
            f"{len(signature.inputs)} inputs: {_names(signature.inputs)}"
        )
    ((name, spec),) = signature.inputs.items()
    return {name: _tensor(rows, spec, key, pictures)}


def _is_named(row: Any) -> bool:
    """Whether a row names its tensors."""
    return isinstance(row, dict) and not is_base64(row)


def _check_names(row: Any, index: int, key: str, signature: Signature) -> None:
    if not _is_named(row):
        raise InvalidRequest(
            f"Expecting object but got list at item {index} of '{key}': {key}[{index}] is a JSON {kind_of(row)}; "
            f"expected an object with {_names(signature.inputs)}"
        )
    if row.keys() == signature.inputs.keys():
        return
    for name in row:
        if name not in signature.inputs:
            raise InvalidRequest(
                f"Failed to process element: {index} key: {name} of '{key}' list. JSON object: does not have named "
                f"input: {name}; expected {_names(signature.inputs)}"
            )
    raise InvalidRequest(
        f"Failed to process element: {index} of '{key}' list: it has {_names(row) or 'no names'}; keys must be equal "
        f"to: {','.join(signature.inputs)}"
    )


def _columns(inputs: Any, signature: Signature, pictures: Pictures | None) -> dict[str, Array]:
    if not _is_named(inputs):
        if len(signature.inputs) != 1:
            raise InvalidRequest(
                "inputs is a plain value/list, but expecting an object, for the signature takes "
                f"{len(signature.inputs)} inputs: {_names(signature.inputs)}"
            )
        ((name, spec),) = signature.inputs.items()
        return {name: _tensor(inputs, spec, "inputs", pictures)}
    for name in signature.inputs:
        if name not in inputs:
            raise InvalidRequest(
                f"Missing named input: {name} in 'inputs' object; it has {_names(inputs) or 'none'}, expected "
                f"{_names(signature.inputs)}"
            )
    # Other names are ignored, as in TensorFlow Serving.
    return {name: _tensor(inputs[name], spec, f"inputs[{name!r}]", pictures) for name, spec in signature.inputs.items()}


def _tensor(value: Any, spec: TensorSpec, where: str, pictures: Pictures | None) -> Array:
    """An empty list does not show the sizes within it: the signature fills them in, if it declares them."""
    if pictures is not None and (files := _picture_files(value, where)):
        return pictures(files)
    array = array_from_json(value, spec, where)
    hidden = (spec.shape or ())[array.ndim :]
    return array if array.size or -1 in hidden else array.reshape(array.shape + hidden)


def _picture_files(value: Any, where: str) -> dict[str, bytes]:
    """The files of a value whose rows are all `{"b64": ...}`, by their names in messages; else none."""
    if is_base64(value):
        return {where: bytes_from_json(value, where)}
    if not isinstance(value, list) or not all(map(is_base64, value)):
        return {}
    places = [where.replace("...", str(row)) if "..." in where else f"{where}[{row}]" for row in range(len(value))]
    return {place: bytes_from_json(file, place) for place, file in zip(places, value, strict=True)}


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def _json_error(data: bytes, error: orjson.JSONDecodeError, expected: str) -> str:
    if not data:
        return f"The document is empty; {expected}"
    if looks_like_picture(data):
        return "Invalid value: the body is a picture; say so with Content-Type: image/png (or jpeg, webp, ...)"
    what = error.msg
    if data[error.pos :].lstrip(b"-").startswith((b"NaN", b"Infinity", b"Inf")):
        what = "JSON has no NaN and no Infinity"
    return f"Invalid value: {what}, at line {error.lineno} column {error.colno}"


def kind_of(value: Any) -> str:
    """JSON's name for the type of a value."""
    if value is None:
        return "null"
    return {bool: "boolean", int: "number", float: "number", str: "string", list: "list", dict: "object"}[type(value)]


def pictures_of(request: Request) -> Mapping[str, bytes]:
    """The pictures of a request, by their names in messages; none where it is neither a picture nor a form."""
    mimetype = request.mimetype
    if mimetype.startswith("image/"):
        return {"the body": request.body}
    if mimetype != "multipart/form-data":
        return {}
    files = _form_files(request)
    if not files:
        raise InvalidRequest("the form has no file; expected one or several pictures as files")
    return files


def _form_files(request: Request) -> dict[str, bytes]:
    mimetype, options = parse_options_header(request.headers[b"content-type"].decode("latin-1"))
    if not options.get("boundary"):
        raise InvalidRequest(
            "Content-Type multipart/form-data has no boundary; expected `multipart/form-data; boundary=...`, as HTTP "
            "libraries write it by themselves where no Content-Type is given"
        )
    # In memory, where the body is; Werkzeug writes long files to disk.
    parser = FormDataParser(lambda *_, **__: BytesIO(), max_form_parts=MAX_FORM_PARTS)
    try:
        _, _, files = parser.parse(BytesIO(request.body), mimetype, len(request.body), options)
    except RequestEntityTooLarge:
        raise PayloadTooLarge(f"the form has too many parts: at most {MAX_FORM_PARTS} are taken") from None
    return {
        f"file {number} ({file.filename or field})": file.read()
        for number, (field, file) in enumerate(files.items(multi=True), start=1)
    }
