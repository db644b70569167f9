"""Files as prediction requests: pictures, CSV tables, JSON."""

import csv
import json
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from service.runtime import utf8
from service.tensors.image_file import FORMATS, looks_like_picture

# Of Pillow's formats. Whether HEIC is accepted depends on the service's decoder.
PICTURE_SUFFIXES = {".jpg", ".tif", ".heic", ".heif", *(f".{name.lower()}" for name in FORMATS)}
_KEYS = {"instances", "inputs", "examples"}


class InvalidInput(Exception):
    """The message says what is wrong with the input `name`, and what was expected."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


@dataclass(frozen=True)
class PredictRequest:
    """`picture` or `body` (of a v1 request). `name`: what messages call it."""

    name: str
    picture: bytes | None = None
    body: dict[str, Any] | None = None


def read_file(path: Path, rank: int | None) -> PredictRequest:
    """A picture, a CSV table or JSON.

    `rank`: of the model's only input, with the batch dimension; it tells one row from a batch. None if unknown.

    Raises:
        InvalidInput: the content is not what the suffix says.
        NotUtf8: a table or JSON that is no text.
        OSError: the file cannot be read.
    """
    match path.suffix.lower():
        case ".csv":
            return PredictRequest(str(path), body={"instances": as_rows(_table(path), rank).tolist()})
        case ".json":
            return json_request(str(path), utf8.decode(path.read_bytes()))
    content = path.read_bytes()
    if path.suffix.lower() in PICTURE_SUFFIXES or looks_like_picture(content):
        return PredictRequest(str(path), picture=content)
    raise InvalidInput(str(path), f"expected a picture ({picture_suffixes()}), .npy, .npz, .csv or .json")


def _table(path: Path) -> np.ndarray[Any, Any]:
    """One row per line. A first line that is not numbers holds names, and is skipped."""
    rows = [row for row in csv.reader(StringIO(utf8.decode(path.read_bytes()), newline="")) if row]
    if rows and not all(map(is_number, rows[0])):
        rows = rows[1:]
    if not rows:
        raise InvalidInput(str(path), "no rows; expected numbers, a row a line")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise InvalidInput(str(path), f"row {number} has {len(row)} values, the first has {len(rows[0])}")
        if wrong := [cell for cell in row if not is_number(cell)]:
            raise InvalidInput(str(path), f"row {number} has {wrong[0]!r}; expected a number")
    return np.array(rows, dtype=np.float64)


def as_rows(array: np.ndarray[Any, Any], rank: int | None) -> np.ndarray[Any, Any]:
    """The array with rows as its first dimension: one row becomes a batch. `rank`: of the input; None if unknown."""
    if array.ndim == 0 or (rank is not None and array.ndim == rank - 1):
        return array[np.newaxis]
    if rank is not None and array.ndim == rank + 1 and array.shape[-1] == 1:
        # A CSV of one column, for a model of single numbers.
        return array[..., 0]
    return array


def json_request(name: str, text: str) -> PredictRequest:
    """A whole request, or one row of it."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInput(name, f"no JSON: {error}") from None
    if isinstance(value, dict) and value.keys() & _KEYS:
        return PredictRequest(name, body=value)
    return PredictRequest(name, body={"instances": [value]})


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def picture_suffixes() -> str:
    return ", ".join(sorted(PICTURE_SUFFIXES))
