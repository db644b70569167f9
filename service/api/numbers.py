"""JSON numbers as arrays, without a Python object for each number.

simdjson parses them and gives the numbers in a row, without their nesting. The brackets and commas tell that: the text
without digits and spaces is the same for every array of a shape, so one comparison checks it. What does not fit is left
to service/tensors/json.py, which says what is wrong.

Where simdjson has no wheel, orjson takes its place: right as well, but with an object for each number.
"""

import re
import threading
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from math import inf, prod
from typing import Any

import numpy as np
import orjson

try:
    import simdjson
except ImportError:
    simdjson = None  # type: ignore[assignment,unused-ignore]

from service.tensors.dtypes import DTYPES, Array
from service.tensors.signature import TensorSpec

# A parser's buffers are ten times as long as its longest document: those of longer ones are not kept.
MAX_KEPT_BYTES = 256 * 1024

_kept = threading.local()


def _parser_for(data: bytes) -> Any:
    """A simdjson parser of this thread; it keeps its buffers from a document to the next."""
    if len(data) > MAX_KEPT_BYTES:
        return simdjson.Parser()
    if not hasattr(_kept, "parser"):
        _kept.parser = simdjson.Parser()
    return _kept.parser


_BEGIN = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"instances"[ \t\r\n]*:[ \t\r\n]*(?=\[)')
_SPACE = b" \t\r\n"
OF_NUMBERS = b"0123456789+-.eE" + _SPACE

# If the squares of numbers add up to no more, each is within the type's range. simdjson gives numbers of float64 only.
_SAFE_SQUARES = {"DT_FLOAT": 1e76, "DT_DOUBLE": inf}
# For a kind of NumPy's types: simdjson's name of its numbers, and their type.
_KINDS = {"f": ("d", np.float64), "i": ("i", np.int64), "u": ("u", np.uint64)}


def decode_rows(data: bytes, spec: TensorSpec) -> Array | None:
    """The rows of a body that has only "instances", for a tensor of floats whose first size alone is free.

    None for other tensors and bodies, and for anything that is or may be wrong.
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
    numbers = _numbers(data, "f", of_instances=True)
    # Brackets without a number between them look like brackets with one.
    if numbers is None or len(numbers) != count * form.numbers:
        return None
    # Not a sum of squares: this takes a fifth of the time, and warns of no overflow.
    if not np.vdot(numbers, numbers) <= form.safe_squares:
        return None
    return numbers.astype(form.dtype, copy=False).reshape(count, *form.shape)


@dataclass(frozen=True, slots=True)
class _RowForm:
    """The shape of a row. `brackets`: its text without numbers."""

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


def brackets_of(shape: tuple[int, ...]) -> bytes:
    """The text of an array of that shape without its numbers: `[[,],[,]]` for 2 x 2, nothing for a number."""
    if not shape:
        return b""
    return b"[" + b",".join([brackets_of(shape[1:])] * shape[0]) + b"]"


def decode_data(data: bytes, dtype: "np.dtype[Any]", shape: tuple[int, ...]) -> Array | None:
    """The numbers of a flat list, or of lists nested like the shape. None for anything that is or may be wrong."""
    if dtype.kind not in _KINDS or not (data.count(b"[") == 1 or _is_nested_like(data, shape)):
        return None
    numbers = _numbers(data, dtype.kind)
    if numbers is None or not len(numbers) or len(numbers) != prod(shape):
        return None
    limits: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    if not (limits.min <= numbers.min() and numbers.max() <= limits.max):
        return None
    return numbers.astype(dtype, copy=False).reshape(shape)


def _is_nested_like(data: bytes, shape: tuple[int, ...]) -> bool:
    """Whether the brackets and commas are those of the shape: `[[,],[,]]` for 2 x 2."""
    brackets = data.translate(None, OF_NUMBERS)
    # Brackets of the shape are written out only if they have the length of those that are there.
    length = 0
    for size in reversed(shape):
        length = size * (length + 1) + 1
    return bool(shape) and length == len(brackets) and brackets == brackets_of(shape)


def _numbers(data: bytes, kind: str, *, of_instances: bool = False) -> Array | None:
    """The numbers of a list, or of the lists at "instances", in a row.

    None for what is no JSON, and for a value that is no number of the kind.
    """
    of_type, dtype = _KINDS[kind]
    try:
        if simdjson is None:
            document = orjson.loads(data)
            return _numbers_of_lists(document["instances"] if of_instances else document, dtype)
        document = _parser_for(data).parse(data)
        return np.frombuffer((document["instances"] if of_instances else document).as_buffer(of_type=of_type), dtype)
    except (ValueError, TypeError, RuntimeError, AttributeError, OverflowError):
        return None


def _numbers_of_lists(values: Any, dtype: type[np.generic]) -> Array | None:
    if type(values) is not list:
        return None
    while values and type(values[0]) is list:
        values = list(chain.from_iterable(values))
    if not set(map(type, values)) <= ({int, float} if dtype is np.float64 else {int}):
        return None
    numbers: Array = np.array(values, dtype)
    return numbers if np.isfinite(numbers).all() else None
