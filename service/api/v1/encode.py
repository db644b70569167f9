"""Tensors as responses of TensorFlow Serving's REST API."""

import base64
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import orjson

from service.errors import InvalidRequest
from service.tensors.dtypes import Array

_AS_COLUMNS = 'ask in the column format {"inputs": ...}'


def encode_predictions(outputs: Mapping[str, Array], is_row_format: bool) -> bytes:
    """`predictions`, a value or an object for each row; or `outputs`, a tensor or an object of tensors."""
    if not outputs:
        raise InvalidRequest("Cannot convert empty tensor map to JSON: the signature has no outputs")
    columns = {name: _jsonable(name, array) for name, array in outputs.items()}
    only = next(iter(columns.values())) if len(columns) == 1 else None
    if not is_row_format:
        return _dumps({"outputs": columns if only is None else only})
    rows = _row_count(outputs)
    if only is not None:
        return _dumps({"predictions": only})
    return _dumps({"predictions": [{name: column[row] for name, column in columns.items()} for row in range(rows)]})


def encode_results(results: object) -> bytes:
    return _dumps({"results": results})


def _row_count(outputs: Mapping[str, Array]) -> int:
    """The first size of all outputs."""
    rows = None
    for name, array in outputs.items():
        if not array.ndim:
            raise InvalidRequest(f"Tensor name: {name} has no shape information, so no rows; {_AS_COLUMNS}")
        if rows is not None and len(array) != rows:
            raise InvalidRequest(
                f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {rows}; {_AS_COLUMNS}"
            )
        rows = len(array)
    return rows or 0


def _jsonable(name: str, array: Array) -> Any:
    """A tensor as orjson takes it: the array itself, for strings nested lists. Strings of an output named `*_bytes`,
    and strings that are not UTF-8, become base64."""
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
    raise InvalidRequest(
        f"Failed to write JSON value for tensor type: {array.dtype.name}: the output {name!r} has no JSON form"
    )


def _text_or_b64(value: bytes | str, as_base64: bool) -> str | dict[str, str]:
    data = value.encode() if isinstance(value, str) else value
    if not as_base64:
        with suppress(UnicodeDecodeError):
            return data.decode()
    return {"b64": base64.b64encode(data).decode()}


def _dumps(body: object) -> bytes:
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
