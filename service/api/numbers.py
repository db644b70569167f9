"""`{"instances": ...}` as an array without a Python object for each number: what makes a prediction's JSON cheap.

simdjson parses and gives the numbers in a row, without saying how they were nested. That the brackets and commas tell:
what is left of the text without digits and spaces is the same for every array of a shape, and a comparison finds out
whether it is the one. Nothing is decided here about what is wrong with a body: the long way (v1_codec) says that.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from math import inf, prod
from typing import Any

import numpy as np

from service.api.json_parsers import parser_for
from service.tensors.json import DTYPES, Array
from service.tensors.signature import TensorSpec

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
