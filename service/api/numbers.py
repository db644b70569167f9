"""`{"instances": ...}` as an array without a Python object for each number: what makes a prediction's JSON cheap.

simdjson parses and gives the numbers in a row, without saying how they were nested. That the brackets and commas tell:
what is left of the text without digits and spaces is the same for every array of a shape, and a comparison finds out
whether it is the one. Nothing is decided here about what is wrong with a body: the long way (v1_codec) says that.
"""

import re
import threading
from dataclasses import dataclass
from functools import lru_cache
from math import inf, prod
from typing import Any

import numpy as np
import simdjson

from service.tensors.dtypes import DTYPES, Array
from service.tensors.signature import TensorSpec

# simdjson's parsers. One keeps its buffers from a document to the next, and serves one thread.

# The buffers are ten times as long as the longest document was: for long ones they are not kept.
MAX_KEPT_BYTES = 256 * 1024

_kept = threading.local()


def parser_for(data: bytes) -> Any:
    if len(data) > MAX_KEPT_BYTES:
        return simdjson.Parser()
    if not hasattr(_kept, "parser"):
        _kept.parser = simdjson.Parser()
    return _kept.parser


_BEGIN = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"instances"[ \t\r\n]*:[ \t\r\n]*(?=\[)')
_SPACE = b" \t\r\n"
OF_NUMBERS = b"0123456789+-.eE" + _SPACE

# Numbers whose squares add up to no more are each within the type's range. simdjson gives none that is not float64's.
_SAFE_SQUARES = {"DT_FLOAT": 1e76, "DT_DOUBLE": inf}


def decode_rows(data: bytes, spec: TensorSpec) -> Array | None:
    """The rows of a body that has "instances" alone, for a tensor of floats whose first size alone is free.

    None for everything else: other tensors, other bodies, and whatever is wrong or may be.
    """
    form = _row_form(spec)
    if form is None:
        return None
    begin, end = _BEGIN.match(data), data.rfind(b"]") + 1
    if begin is None or data[end:].strip(_SPACE) != b"}":
        return None
    brackets = data[begin.end() : end].translate(None, OF_NUMBERS)
    # n rows, n - 1 commas between them, two brackets around.
    count = (len(brackets) - 1) // (len(form.brackets) + 1)
    if count < 1 or brackets != b"[" + b",".join([form.brackets] * count) + b"]":
        return None
    numbers = _numbers(data)
    # A pair of brackets without a number in it looks like one with.
    if numbers is None or len(numbers) != count * form.numbers:
        return None
    # Not a sum: this takes a fifth of the time, and no warning comes of numbers that are too large for it.
    if not np.vdot(numbers, numbers) <= form.safe_squares:
        return None
    return numbers.astype(form.dtype, copy=False).reshape(count, *form.shape)


@dataclass(frozen=True, slots=True)
class _RowForm:
    """`brackets`: what a row looks like without its numbers."""

    shape: tuple[int, ...]
    numbers: int
    brackets: bytes
    dtype: "np.dtype[Any]"
    safe_squares: float


@lru_cache(1024)
def _row_form(spec: TensorSpec) -> _RowForm | None:
    if spec.dtype not in _SAFE_SQUARES or not spec.shape or spec.shape[0] != -1 or -1 in spec.shape[1:]:
        return None
    shape = spec.shape[1:]
    return _RowForm(shape, prod(shape), brackets_of(shape), DTYPES[spec.dtype], _SAFE_SQUARES[spec.dtype])


def _numbers(data: bytes) -> Array | None:
    try:
        # Refuses what is no JSON, and every value that is no number.
        return np.frombuffer(parser_for(data).parse(data)["instances"].as_buffer(of_type="d"), np.float64)
    except (ValueError, TypeError, RuntimeError):
        return None


def brackets_of(shape: tuple[int, ...]) -> bytes:
    """What an array of that shape looks like without its numbers: `[[,],[,]]` for 2 x 2, nothing for a number."""
    if not shape:
        return b""
    return b"[" + b",".join([brackets_of(shape[1:])] * shape[0]) + b"]"


# A tensor's JSON `data` as an array without a Python object for each number: what makes large tensors in JSON cheap.
#
# As in numbers.py nothing is decided here about what is wrong: the long way (service/tensors/json.py) says that.

# As simdjson calls what it gives for a kind of NumPy's types, and what that is.
_SIMDJSON_KINDS = {"f": ("d", np.float64), "i": ("i", np.int64), "u": ("u", np.uint64)}


def decode_data(data: bytes, dtype: "np.dtype[Any]", shape: tuple[int, ...]) -> Array | None:
    """The numbers of a flat list, or of lists nested like the shape.

    None for everything else, and for whatever is wrong or may be.
    """
    if dtype.kind not in _SIMDJSON_KINDS or not (data.count(b"[") == 1 or _is_nested_like(data, shape)):
        return None
    numbers = _numbers_of_kind(data, dtype.kind)
    if numbers is None or not len(numbers) or len(numbers) != prod(shape):
        return None
    limits: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    if not (limits.min <= numbers.min() and numbers.max() <= limits.max):
        return None
    return numbers.astype(dtype, copy=False).reshape(shape)


def _is_nested_like(data: bytes, shape: tuple[int, ...]) -> bool:
    """Whether the brackets and commas are those of the shape: `[[,],[,]]` for 2 x 2."""
    brackets = data.translate(None, OF_NUMBERS)
    # What the shape asks for is only written down where it is as long as what is there.
    length = 0
    for size in reversed(shape):
        length = size * (length + 1) + 1
    return bool(shape) and length == len(brackets) and brackets == brackets_of(shape)


def _numbers_of_kind(data: bytes, kind: str) -> Array | None:
    of_type, dtype = _SIMDJSON_KINDS[kind]
    try:
        # Refuses what is no JSON, and every value that is no number of the kind.
        return np.frombuffer(parser_for(data).parse(data).as_buffer(of_type=of_type), dtype)
    except (ValueError, TypeError, RuntimeError, AttributeError):
        return None
