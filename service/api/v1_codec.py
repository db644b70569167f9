"""TensorFlow Serving's JSON: request bodies as tensors, tensors as answers."""

import base64
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from service.api.json_numbers import decode_rows
from service.errors import InvalidRequest, ServingError
from service.image import looks_like_picture
from service.signature import DEFAULT_SIGNATURE, Signature
from service.tensors import Array, array_from_json
from service.tf_example import encode_example

_BODY_EXPECTED = 'expected {"instances": [...]} or {"inputs": ...}'
_EXAMPLES_EXPECTED = 'expected {"examples": [{feature: value, ...}, ...]} or {"instances": [...]}'


@dataclass(frozen=True, slots=True)
class Body:
    """A request's JSON, not yet read as tensors: that takes a signature."""

    fields: dict[str, Any]
    signature_name: str

    @property
    def is_row_format(self) -> bool:
        return "inputs" not in self.fields


def parse_body(data: bytes) -> Body:
    """Raises InvalidRequest where the body is not one JSON object, or signature_name no string."""
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"JSON Parse error: {_json_error(data, error)}") from None
    if not isinstance(fields, dict):
        raise InvalidRequest(f"the body is a JSON {_kind(fields)}; {_BODY_EXPECTED}")
    signature_name = fields.get("signature_name", DEFAULT_SIGNATURE)
    if not isinstance(signature_name, str):
        raise InvalidRequest("'signature_name' key must be a string value")
    return Body(fields, signature_name or DEFAULT_SIGNATURE)


def decode_numbers(data: bytes, signature: Signature) -> dict[str, Array] | None:
    """What `parse_body` and `decode_predict` make of a body that is nothing but `{"instances": ...}` with floats for
    the signature's only input, at a fraction of their price. None for every other body, also for a wrong one."""
    if len(signature.inputs) != 1:
        return None
    ((name, spec),) = signature.inputs.items()
    array = decode_rows(data, spec)
    return None if array is None else {name: array}


def decode_predict(body: Body, signature: Signature) -> dict[str, Array]:
    """`instances` (a list of rows) or `inputs` (columns) as the signature's tensors."""
    given = [key for key in ("instances", "inputs") if key in body.fields]
    if not given:
        raise InvalidRequest(f"Missing 'inputs' or 'instances' key; {_BODY_EXPECTED}")
    if len(given) == 2:
        raise InvalidRequest("Both 'inputs' and 'instances' are there; expecting only one of them")
    return _columns(body.fields["inputs"], signature) if given == ["inputs"] else _rows(body, "instances", signature)


def decode_examples(body: Body, signature: Signature) -> dict[str, Array]:
    """The body of :classify and :regress: `examples` with an optional `context`, or `instances`/`inputs`.

    A signature with one string input takes examples as serialized tf.train.Example; any other takes the features
    as its inputs of these names.
    """
    if "examples" not in body.fields:
        if not body.fields.keys() & {"instances", "inputs"}:
            raise InvalidRequest(f"Missing 'examples' key; {_EXAMPLES_EXPECTED}")
        return decode_predict(body, signature)
    if extra := body.fields.keys() & {"instances", "inputs"}:
        raise InvalidRequest(f"Both 'examples' and {sorted(extra)[0]!r} are there; expecting only one of them")
    examples, context = body.fields["examples"], body.fields.get("context", {})
    if not isinstance(examples, list) or not examples or not all(isinstance(example, dict) for example in examples):
        raise InvalidRequest(f"'examples' must be a list of at least one JSON object; {_EXAMPLES_EXPECTED}")
    if not isinstance(context, dict):
        raise InvalidRequest(f"'context' must be a JSON object of features, not a JSON {_kind(context)}")
    merged = [context | example for example in examples]
    inputs = list(signature.inputs.items())
    if len(inputs) == 1 and inputs[0][1].dtype == "DT_STRING":
        serialized = [encode_example(example, f"examples[{row}]") for row, example in enumerate(merged)]
        array = np.empty(len(serialized), object)
        array[:] = serialized
        return {inputs[0][0]: array}
    return _rows(Body({"examples": merged}, body.signature_name), "examples", signature)


def encode_predictions(outputs: Mapping[str, Array], is_row_format: bool) -> bytes:
    """`predictions`, a value or an object per row; or `outputs`, a tensor or an object of tensors."""
    columns = {name: _jsonable(name, array) for name, array in outputs.items()}
    only = next(iter(columns.values())) if len(columns) == 1 else None
    if not is_row_format:
        return _dumps({"outputs": columns if only is None else only})
    sizes = {name: array.shape[0] if array.ndim else None for name, array in outputs.items()}
    rows = next(iter(sizes.values()))
    for name, size in sizes.items():
        if size is None or size != rows:
            raise InvalidRequest(
                f"Tensor name: {name} has inconsistent batch size: {size} expecting: {rows}; "
                'ask in the column format {"inputs": ...}'
            )
    if only is not None:
        return _dumps({"predictions": only})
    return _dumps(
        {"predictions": [{name: column[row] for name, column in columns.items()} for row in range(rows or 0)]}
    )


def encode_results(results: object) -> bytes:
    return _dumps({"results": results})


def _rows(body: Body, key: str, signature: Signature) -> dict[str, Array]:
    rows = body.fields[key]
    if not isinstance(rows, list):
        raise InvalidRequest(f"'{key}' must be a list with an entry per row, not a JSON {_kind(rows)}")
    if not rows:
        raise InvalidRequest(f"'{key}' is empty; expected at least one row")
    named = [isinstance(row, dict) and row.keys() != {"b64"} for row in rows]
    if not any(named):
        name = _only_input(signature, f"'{key}'")
        return {name: array_from_json(rows, signature.inputs[name], key)}
    names = rows[named.index(True)].keys()
    for index, row in enumerate(rows):
        if not named[index] or row.keys() != names:
            found = sorted(row) if isinstance(row, dict) else f"a JSON {_kind(row)}"
            raise InvalidRequest(f"{key}[{index}] has {found}; expected the inputs {sorted(names)} in every row")
    return {
        name: array_from_json([row[name] for row in rows], signature.inputs[name], f"{key}[...][{name!r}]")
        for name in _known(names, signature)
    }


def _columns(inputs: Any, signature: Signature) -> dict[str, Array]:
    if not isinstance(inputs, dict) or inputs.keys() == {"b64"}:
        name = _only_input(signature, "'inputs'")
        return {name: array_from_json(inputs, signature.inputs[name], "inputs")}
    return {
        name: array_from_json(inputs[name], signature.inputs[name], f"inputs[{name!r}]")
        for name in _known(inputs, signature)
    }


def _known(names: Any, signature: Signature) -> list[str]:
    for name in names:
        if name not in signature.inputs:
            raise InvalidRequest(f"unknown input {name!r}; expected {', '.join(map(repr, signature.inputs))}")
    return list(names)


def _only_input(signature: Signature, where: str) -> str:
    if len(signature.inputs) != 1:
        raise InvalidRequest(
            f"{where} has no input names, and the signature takes {len(signature.inputs)} inputs: "
            f"expected an object with {', '.join(map(repr, signature.inputs))}"
        )
    return next(iter(signature.inputs))


def _jsonable(name: str, array: Array) -> Any:
    """What orjson writes for a tensor: the array itself, for strings nested lists. A name that ends in `_bytes`
    asks for base64; what is not UTF-8 comes in base64 whatever the name."""
    kind = array.dtype.kind
    if kind in "biuf":
        # orjson takes arrays in C order and the machine's byte order, but none without dimensions.
        return np.ascontiguousarray(array, array.dtype.newbyteorder("=")) if array.ndim else array[()]
    if kind in "OS":
        as_base64 = name.endswith("_bytes")
        texts = np.empty(array.size, object)
        texts[:] = [_text_or_b64(value, as_base64) for value in array.ravel()]
        return texts.reshape(array.shape).tolist()
    if array.dtype.name == "bfloat16":
        return _jsonable(name, array.astype(np.float32))
    raise ServingError(f"the output {name!r} is of the type {array.dtype.name}, which has no JSON form")


def _text_or_b64(value: bytes | str, as_base64: bool) -> str | dict[str, str]:
    data = value.encode() if isinstance(value, str) else value
    if not as_base64:
        with suppress(UnicodeDecodeError):
            return data.decode()
    return {"b64": base64.b64encode(data).decode()}


def _dumps(body: object) -> bytes:
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def _json_error(data: bytes, error: orjson.JSONDecodeError) -> str:
    if not data:
        return f"the body is empty; {_BODY_EXPECTED}"
    if looks_like_picture(data):
        return "the body is a picture; say so with Content-Type: image/png (or jpeg, webp, ...)"
    if data[error.pos :].lstrip(b"-").startswith((b"NaN", b"Infinity", b"Inf")):
        return f"JSON has no NaN and no Infinity, at line {error.lineno} column {error.colno}"
    return f"{error.msg}, at line {error.lineno} column {error.colno}"


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return {bool: "boolean", int: "number", float: "number", str: "string", list: "list", dict: "object"}[type(value)]
