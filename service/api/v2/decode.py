"""Requests of the Open Inference Protocol as tensors."""

from collections.abc import Iterable, Mapping
from math import prod
from typing import Annotated

import msgspec
import orjson

from service.api import numbers
from service.api.v2 import binary
from service.errors import InvalidRequest
from service.inference.version import LoadedVersion
from service.runtime.utf8 import NotUtf8, without_mark
from service.tensors.dtypes import DTYPES, MAX_DIMENSIONS, Array, shape_text
from service.tensors.json import array_from_json
from service.tensors.signature import DEFAULT_SIGNATURE, Signature, TensorSpec

HEAD_LENGTH = "Inference-Header-Content-Length"
# As requests have it.
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
    # Not yet parsed; empty where the request has none. (Raw has no None.)
    data: msgspec.Raw = msgspec.Raw()


class OutputParameters(msgspec.Struct, frozen=True, gc=False):
    """`classification`: how many of the best classes to give instead of the scores; 0: the scores themselves."""

    binary_data: bool | None = None
    classification: Size = 0
    shared_memory_region: str | None = None


class Output(msgspec.Struct, frozen=True):
    name: str
    parameters: OutputParameters | None = None


class RequestParameters(msgspec.Struct, frozen=True, gc=False):
    binary_data_output: bool | None = None


class Head(msgspec.Struct, frozen=True):
    """The JSON of a request. Parameters of other servers (sequences, priorities) are ignored."""

    inputs: list[Input]
    id: str | None = None
    outputs: list[Output] | None = None
    parameters: RequestParameters | None = None

    @property
    def wants_binary(self) -> bool:
        """Whether outputs are binary that do not say so themselves."""
        return self.parameters is not None and bool(self.parameters.binary_data_output)


_HEADS = msgspec.json.Decoder(Head)


def read_head_length(text: bytes, max_length: int) -> int:
    if not (text.isdigit() and len(text) <= _MAX_DIGITS and int(text) <= max_length):
        given = text[:40].decode("latin-1")
        raise InvalidRequest(
            f"{HEAD_LENGTH}: {given!r}; expected the length of the JSON, 0 to {max_length} (the body's)"
        )
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


_RAW_HEAD = Head([], parameters=RequestParameters(binary_data_output=True))


def signature_name(loaded: LoadedVersion) -> str:
    """The signature that is run, since the protocol names none: the default one, or the only one, as in Triton.

    Raises:
        InvalidRequest: there are several, none of them the default one.
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
    """Decode a body. `head_length`: Inference-Header-Content-Length; 0: the body is the only input's data.

    Raises:
        InvalidRequest: the message says what is wrong, and where.
    """
    length = len(body) if head_length is None else read_head_length(head_length, len(body))
    view = memoryview(body)
    if length == 0 and head_length is not None:
        return _RAW_HEAD, _decode_raw(view, signature)
    head = read_head(body if length == len(body) else view[:length], has_length=head_length is not None)
    arrays: dict[str, Array] = {}
    for given in head.inputs:
        name, parameters = given.name, given.parameters
        region = None if parameters is None else parameters.shared_memory_region
        spec = input_spec(name, given.datatype, region, signature)
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
    check_outputs(head.outputs or (), signature)
    return head, arrays


def input_spec(name: str, datatype: str, shared_memory_region: str | None, signature: Signature) -> TensorSpec:
    """The signature's input of that name. Raises InvalidRequest where there is none, or it is of another type."""
    spec = signature.inputs.get(name)
    if spec is None:
        raise InvalidRequest(f"unknown input {name!r}; expected {_names(signature.inputs)}")
    expected = binary.datatype(spec)
    if datatype != expected:
        raise InvalidRequest(f"input {name!r} has the datatype {datatype[:40]!r}; expected {expected!r}")
    if shared_memory_region is not None:
        raise InvalidRequest(f"input {name!r}: there is no shared memory; send 'data' or binary data")
    return spec


def check_outputs(outputs: Iterable[Output], signature: Signature) -> None:
    """Raise InvalidRequest for an output that the model lacks, that is named twice, or is wanted in shared memory."""
    wanted = set()
    for output in outputs:
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
    # An empty list does not show the sizes within it.
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


def _names(names: Mapping[str, object]) -> str:
    return ", ".join(map(repr, names)) or "none"
