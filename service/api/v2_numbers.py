"""A tensor's JSON `data` as an array without a Python object for each number: what makes large tensors in JSON cheap.

As in numbers.py nothing is decided here about what is wrong: the long way (service/tensors/json.py) says that.
"""

from math import prod
from typing import Any

import numpy as np

from service.api.json_parsers import parser_for
from service.api.numbers import OF_NUMBERS, brackets_of
from service.tensors.json import Array

# As simdjson calls what it gives for a kind of NumPy's types, and what that is.
_KINDS = {"f": ("d", np.float64), "i": ("i", np.int64), "u": ("u", np.uint64)}


def decode_data(data: bytes, dtype: "np.dtype[Any]", shape: tuple[int, ...]) -> Array | None:
    """The numbers of a flat list, or of lists nested like the shape.

    None for everything else, and for whatever is wrong or may be.
    """
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
    # What the shape asks for is only written down where it is as long as what is there.
    length = 0
    for size in reversed(shape):
        length = size * (length + 1) + 1
    return bool(shape) and length == len(brackets) and brackets == brackets_of(shape)


def _numbers(data: bytes, kind: str) -> Array | None:
    of_type, dtype = _KINDS[kind]
    try:
        # Refuses what is no JSON, and every value that is no number of the kind.
        return np.frombuffer(parser_for(data).parse(data).as_buffer(of_type=of_type), dtype)
    except (ValueError, TypeError, RuntimeError, AttributeError):
        return None
