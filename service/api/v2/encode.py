"""Tensors as responses of the Open Inference Protocol: JSON, binary tensors, and the extension classification."""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import orjson

from service.api.v2 import binary
from service.api.v2.decode import HEAD_LENGTH, Head, Output, OutputParameters
from service.errors import InvalidRequest
from service.http import Response
from service.inference.classification import best_first
from service.inference.version import LoadedVersion
from service.tensors.dtypes import DATATYPES, DTYPES, Array

_DATATYPE_OF = {dtype: DATATYPES[name] for name, dtype in DTYPES.items()}
_DEFAULTS = OutputParameters()


def encode(loaded: LoadedVersion, signature_name: str, head: Head, outputs: Mapping[str, Array]) -> Response:
    """The response with the outputs that the request names; all where it names none."""
    described: list[dict[str, Any]] = []
    parts: list[bytes] = []
    wants_binary = head.wants_binary
    for wanted in head.outputs or [Output(name) for name in outputs]:
        name, parameters = wanted.name, wanted.parameters or _DEFAULTS
        array = outputs[name]
        if parameters.classification:
            array = classify(loaded, signature_name, name, array, parameters.classification)
        output: dict[str, Any] = {"name": name, "datatype": datatype_of(name, array), "shape": array.shape}
        if wants_binary if parameters.binary_data is None else parameters.binary_data:
            data = binary.encode_tensor(array)
            output["parameters"] = {"binary_data_size": len(data)}
            parts.append(data)
        else:
            output["data"] = _jsonable(name, array)
        described.append(output)
    text = orjson.dumps(
        ({} if head.id is None else {"id": head.id})
        | {"model_name": loaded.model, "model_version": loaded.version_text, "outputs": described},
        option=orjson.OPT_SERIALIZE_NUMPY,
    )
    if not parts:
        return Response(200, text)
    length = ((HEAD_LENGTH, str(len(text))),)
    return Response(200, b"".join([text, *parts]), "application/octet-stream", length)


def classify(loaded: LoadedVersion, signature_name: str, output: str, scores: Array, count: int) -> Array:
    """Strings "score:index" or "score:index:label", best first: `count` for each row, or as many as there are.

    Raises:
        InvalidRequest: the output has no scores.
    """
    if scores.dtype.kind not in "iuf":
        raise InvalidRequest(f"output {output!r} cannot be classified: it is of the type {scores.dtype.name}")
    labels: tuple[str, ...] = ()
    if loaded.label_output(signature_name) == output:
        both = loaded.label_scores(signature_name, {output: scores})
        if both is not None:
            scores, labels = both, loaded.config.labels
    is_batch = scores.ndim > 1
    rows = scores.reshape(len(scores), prod(scores.shape[1:])) if is_batch else scores.reshape(1, -1)
    best = [text for row in rows for text in _best(row, labels, count)]
    array = np.empty(len(best), object)
    array[:] = best
    return array.reshape(len(rows), min(count, rows.shape[1])) if is_batch else array


def _best(scores: Array, labels: tuple[str, ...], count: int) -> list[bytes]:
    # str, because a float32 in an f-string becomes a Python float, with digits that it does not have.
    return [
        ":".join([str(scores[index]), str(index), *([labels[index]] if labels else [])]).encode()
        for index in best_first(scores)[:count]
    ]


def datatype_of(name: str, array: Array) -> str:
    """Raises InvalidRequest for an output of a type that the protocol has no name for."""
    datatype = _DATATYPE_OF.get(array.dtype)
    if datatype is not None:
        return datatype
    if array.dtype.kind == "S":
        return "BYTES"
    if array.dtype.name == "bfloat16":
        return "BF16"
    raise InvalidRequest(
        f"output {name!r} is of the type {array.dtype.name}, for which the protocol has no datatype; ask for others "
        "in 'outputs'"
    )


def _jsonable(name: str, array: Array) -> Any:
    """A tensor's values in one list, as orjson takes it."""
    kind = array.dtype.kind
    if kind in "biuf":
        return array.ravel()
    if kind in "OS":
        try:
            return [value if isinstance(value, str) else value.decode() for value in array.ravel().tolist()]
        except UnicodeDecodeError:
            raise InvalidRequest(
                f"output {name!r} holds bytes that are no UTF-8, which JSON cannot hold; ask for it with the parameter "
                "'binary_data': true"
            ) from None
    return array.astype(np.float32).ravel()
