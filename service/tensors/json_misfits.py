"""Why nested JSON lists are no tensor, and at which place: the sentences for whoever sent them.

`depth` is the level at which the values differ; above it, all is lists of one length.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from service.errors import InvalidRequest


def subscripts(path: Iterable[int]) -> str:
    return "".join(f"[{index}]" for index in path)


def ragged(value: Any, depth: int, where: str) -> InvalidRequest:
    first = value
    for _ in range(depth):
        first = first[0]
    path, item = _find(value, depth, lambda item: len(item) != len(first))
    here, there = f"{len(item)} value{'s' * (len(item) != 1)}", len(first)
    return InvalidRequest(
        f"{where}{path} has {here} where {where}{'[0]' * depth} has {there}; rows must be of one length"
        f"{_unlike_the_first(value)}"
    )


def uneven(value: Any, depth: int, where: str) -> InvalidRequest:
    path, item = _find(value, depth, lambda item: not isinstance(item, list))
    return InvalidRequest(
        f"{where}{path} is {_noun(item)} where its neighbours are lists; rows must be of one depth"
        f"{_unlike_the_first(value)}"
    )


def _unlike_the_first(rows: list[Any]) -> str:
    """How the first row that is unlike the first differs from it, in TensorFlow Serving's words."""
    size, shape = _size_and_shape(rows[0])
    for row in rows:
        here, shape_here = _size_and_shape(row)
        if here != size:
            return f" (Expecting tensor size: {size} but got: {here})"
        if shape_here != shape:
            return f" (Expecting shape {shape} but got: {shape_here})"
    return ""


def _size_and_shape(row: Any) -> tuple[int, list[int]]:
    """How many values a row holds, and the shape that its first value has."""
    shape: list[int] = []
    first = row
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    size, level = 0, [row]
    while level:
        lists = [item for item in level if isinstance(item, list)]
        size += len(level) - len(lists)
        level = list(chain.from_iterable(lists))
    return size, shape


def wrong_type(value: Any, depth: int, where: str, allowed: set[type], expected: str) -> InvalidRequest:
    path, item = _find(value, depth, lambda item: type(item) not in allowed)
    return InvalidRequest(f"{where}{path} is {_noun(item)}; expected {expected}")


def _find(value: Any, depth: int, is_wrong: Callable[[Any], bool]) -> tuple[str, Any]:
    """The first item at that depth that is wrong, and its place ("[3][0]"). One must be."""

    def search(item: Any, path: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
        if len(path) < depth:
            for index, child in enumerate(item):
                yield from search(child, (*path, index))
        elif is_wrong(item):
            yield subscripts(path), item

    return next(search(value, ()))


def _noun(item: Any) -> str:
    if item is None:
        return "null"
    if isinstance(item, bool):
        return str(item).lower()
    if isinstance(item, (int, float)):
        return f"the number {item}"
    if isinstance(item, str):
        return f"the string {item[:40]!r}"
    return "a list" if isinstance(item, list) else "an object"
