"""The Open Inference Protocol's requests as tensors, and tensors as its answers."""

from collections.abc import Mapping
from math import prod
from typing import Annotated, Any

import msgspec
import numpy as np
import orjson

from service.api import numbers
from service.api.v2 import binary, classification
from service.errors import InvalidRequest
from service.http import Response
from service.inference.version import LoadedVersion
from service.runtime.utf8 import NotUtf8, without_mark
from service.tensors.dtypes import DATATYPES, DTYPES, MAX_DIMENSIONS, Array, shape_text
from service.tensors.json import array_from_json
from service.tensors.signature import DEFAULT_SIGNATURE, Signature, TensorSpec

# The JSON of an inference request, without its tensors' values.

HEAD_LENGTH = "Inference-Header-Content-Length"
# As a request has it.
HEAD_LENGTH_HEADER = HEAD_LENGTH.lower().encode()

_EXPECTED = 'expected {"inputs": [{"name": ..., "shape": [...], "datatype": ..., "data": [...]}, ...]}'
_MAX_DIGITS = 18

Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class InputParameters(msgspec.Struct, frozen=True, gc=False):
    binary_data_size: Size | None = None
    shared_memory_region: str | None = None


class Input(msgspec.Struct, frozen=True):
    name: str
    shape: Annotated[list[Size], msgspec.Meta(max_length=MAX_DIMENSIONS)]
    datatype: str
    parameters: InputParameters | None = None
    # As it stands in the request; empty where it does not. (Raw goes with no None.)
    data: msgspec.Raw = msgspec.Raw()


class OutputParameters(msgspec.Struct, frozen=True, gc=False):
    """`classification`: how many of the best classes to give instead of the scores; 0: the scores."""

    binary_data: bool | None = None
    classification: Size = 0
    shared_memory_region: str | None = None


class Output(msgspec.Struct, frozen=True):
    name: str
    parameters: OutputParameters | None = None


class RequestParameters(msgspec.Struct, frozen=True, gc=False):
    binary_data_output: bool | None = None


class Head(msgspec.Struct, frozen=True):
    """The JSON of a request. What other servers know beyond it (sequences, priorities) is passed over."""

    inputs: list[Input]
    id: str | None = None
    outputs: list[Output] | None = None
    parameters: RequestParameters | None = None

    @property
    def wants_binary(self) -> bool:
        """What holds for every output that does not say so itself."""
        return self.parameters is not None and bool(self.parameters.binary_data_output)


_HEADS = msgspec.json.Decoder(Head)


def read_head_length(text: bytes, most: int) -> int:
    if not (text.isdigit() and len(text) <= _MAX_DIGITS and int(text) <= most):
        given = text[:40].decode("latin-1")
        raise InvalidRequest(f"{HEAD_LENGTH}: {given!r}; expected the length of the JSON, 0 to {most} (the body's)")
    return int(text)


def read_head(text: bytes | memoryview, has_length: bool) -> Head:
    try:
        return _HEADS.decode(without_mark(text))
    except RecursionError:
        raise InvalidRequest("the JSON is nested too deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError, NotUtf8) as error:
        if not text:
            raise InvalidRequest(f"the body is empty; {_EXPECTED}") from None
        reason = str(error).removesuffix(".")
        hint = ""
        if isinstance(error, msgspec.ValidationError):
            hint = f"; {_EXPECTED}"
        elif "trailing" in reason and not has_length:
            hint = f"; binary data behind the JSON takes the header {HEAD_LENGTH}"
        raise InvalidRequest(f"the request's JSON: {reason}{hint}") from None


_DATATYPE_OF = {dtype: DATATYPES[name] for name, dtype in DTYPES.items()}
_RAW_HEAD = Head([], parameters=RequestParameters(binary_data_output=True))
_AS_IT_IS = OutputParameters()


def signature_name(loaded: LoadedVersion) -> str:
    """The signature that answers, for the protocol names none: the default one, or the only one, as Triton does it.

    Raises:
        InvalidRequest: there are several, and none is the default one.
    """
    names = loaded.engine.signatures.keys()
    if DEFAULT_SIGNATURE in names:
        return DEFAULT_SIGNATURE
    if len(names) == 1:
        return next(iter(names))
    raise InvalidRequest(
        f"{loaded.model} has several signatures, none of them {DEFAULT_SIGNATURE!r}: {', '.join(map(repr, names))}; "
        "ask for one by its name, which the Open Inference Protocol has no place for: POST "
        f'/v1/models/{loaded.model}:predict with "signature_name"'
    )


def decode(body: bytes, head_length: bytes | None, signature: Signature) -> tuple[Head, dict[str, Array]]:
    """`head_length`: the header Inference-Header-Content-Length; 0 says that the body is the only input's data.

    Raises:
        InvalidRequest: what is wrong, and where.
    """
    length = len(body) if head_length is None else read_head_length(head_length, len(body))
    view = memoryview(body)
    if length == 0 and head_length is not None:
        return _RAW_HEAD, _decode_raw(view, signature)
    head = read_head(body if length == len(body) else view[:length], has_length=head_length is not None)
    arrays: dict[str, Array] = {}
    for given in head.inputs:
        name, parameters = given.name, given.parameters
        spec = _spec(given, signature)
        if name in arrays:
            raise InvalidRequest(f"input {name!r} is there twice")
        if parameters is None or parameters.binary_data_size is None:
            arrays[name] = _decode_json(given, spec)
            continue
        end = length + parameters.binary_data_size
        if end > len(body):
            raise InvalidRequest(
                f"input {name!r}: binary_data_size is {parameters.binary_data_size}, and {len(body) - length} bytes "
                f"are left of the body behind its JSON ({HEAD_LENGTH}) and the inputs before"
            )
        if bytes(given.data):
            raise InvalidRequest(f"input {name!r} has both 'data' and 'binary_data_size'; expected one of them")
        arrays[name] = binary.decode_tensor(name, spec, tuple(given.shape), view[length:end])
        length = end
    if length != len(body):
        raise InvalidRequest(f"{len(body) - length} bytes are left of the body behind the last input's")
    _check_outputs(head, signature)
    return head, arrays


def encode(loaded: LoadedVersion, signature_name: str, head: Head, outputs: Mapping[str, Array]) -> Response:
    """The outputs that the request wants, all where it names none."""
    described: list[dict[str, Any]] = []
    parts: list[bytes] = []
    wants_binary = head.wants_binary
    for wanted in head.outputs or [Output(name) for name in outputs]:
        name, parameters = wanted.name, wanted.parameters or _AS_IT_IS
        array = outputs[name]
        if parameters.classification:
            array = classification.classify(loaded, signature_name, name, array, parameters.classification)
        output: dict[str, Any] = {"name": name, "datatype": _datatype(name, array), "shape": array.shape}
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


def _spec(given: Input, signature: Signature) -> TensorSpec:
    spec = signature.inputs.get(given.name)
    if spec is None:
        raise InvalidRequest(f"unknown input {given.name!r}; expected {_names(signature.inputs)}")
    expected = binary.datatype(spec)
    if given.datatype != expected:
        raise InvalidRequest(f"input {given.name!r} has the datatype {given.datatype[:40]!r}; expected {expected!r}")
    if given.parameters is not None and given.parameters.shared_memory_region is not None:
        raise InvalidRequest(f"input {given.name!r}: there is no shared memory; send 'data' or binary data")
    return spec


def _check_outputs(head: Head, signature: Signature) -> None:
    """Raises InvalidRequest for an output that the model does not have, that is wanted twice or in shared memory."""
    wanted = set()
    for output in head.outputs or ():
        if output.name not in signature.outputs:
            raise InvalidRequest(f"unknown output {output.name!r}; expected {_names(signature.outputs)}")
        if output.name in wanted:
            raise InvalidRequest(f"output {output.name!r} is wanted twice")
        if output.parameters is not None and output.parameters.shared_memory_region is not None:
            raise InvalidRequest(f"output {output.name!r}: there is no shared memory; leave out 'shared_memory_region'")
        wanted.add(output.name)


def _decode_json(given: Input, spec: TensorSpec) -> Array:
    name, shape = given.name, tuple(given.shape)
    data = bytes(given.data)
    if not data:
        raise InvalidRequest(f"input {name!r} has neither 'data' nor the parameter 'binary_data_size'")
    if spec.dtype == binary.BFLOAT16:
        spec = msgspec.structs.replace(spec, dtype="DT_FLOAT")
    dtype = DTYPES.get(spec.dtype)
    array = None if dtype is None else numbers.decode_data(data, dtype, shape)
    if array is not None:
        return array
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"input {name!r}: its 'data' is no JSON: {error.msg}") from None
    array = array_from_json(value, spec, f"inputs[{name!r}].data")
    if array.shape == shape:
        return array
    # What an empty list would hold nobody can see.
    visible = shape[: shape.index(0) + 1] if 0 in shape else shape
    if array.shape != visible and (array.ndim != 1 or array.size != prod(shape)):
        raise InvalidRequest(
            f"input {name!r}: its 'data' has the shape {shape_text(array.shape)}; expected {prod(shape)} values in one "
            f"list, or lists nested like its 'shape' {shape_text(shape)}"
        )
    return binary.reshape(name, array, shape)


def _decode_raw(body: memoryview, signature: Signature) -> dict[str, Array]:
    if len(signature.inputs) != 1:
        raise InvalidRequest(
            f"the body is raw ({HEAD_LENGTH}: 0), which takes a model with one input; this one has "
            f"{_names(signature.inputs)}"
        )
    ((name, spec),) = signature.inputs.items()
    return {name: binary.decode_raw(name, spec, body)}


def _datatype(name: str, array: Array) -> str:
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
    """The values in one list, as orjson takes it."""
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


def _names(names: Mapping[str, object]) -> str:
    return ", ".join(map(repr, names)) or "none"
