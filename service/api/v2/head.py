"""The JSON of an inference request, without its tensors' values."""

from typing import Annotated

import msgspec

from service.errors import InvalidRequest
from service.tensors.json import MAX_DIMENSIONS
from service.tensors.utf8 import NotUtf8, without_mark

HEAD_LENGTH = "Inference-Header-Content-Length"
# As a request has it.
HEAD_LENGTH_HEADER = HEAD_LENGTH.lower().encode()

_EXPECTED = 'expected {"inputs": [{"name": ..., "shape": [...], "datatype": ..., "data": [...]}, ...]}'
_MOST_DIGITS = 18

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


def read_length(text: bytes, most: int) -> int:
    if not (text.isdigit() and len(text) <= _MOST_DIGITS and int(text) <= most):
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
