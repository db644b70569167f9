"""What stands on the command line, as requests."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from service.runtime import utf8
from service.tensors.image_file import FORMATS, looks_like_picture

# As Pillow's formats are called at the end of file names; of HEIC the service says itself whether it takes any.
PICTURE_SUFFIXES = {".jpg", ".tif", ".heic", ".heif", *(f".{name.lower()}" for name in FORMATS)}
_KEYS = {"instances", "inputs", "examples"}


class InvalidInput(Exception):
    """The message says what is wrong with the input `name`, and what was expected."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


@dataclass(frozen=True)
class PredictRequest:
    """One request: `picture`, or `body`, a v1 request's. `name` as the table shows it."""

    name: str
    picture: bytes | None = None
    body: dict[str, Any] | None = None


def requests(texts: Sequence[str], rank: int | None, stdin: Any) -> Iterator[PredictRequest | InvalidInput]:
    """`rank` is that of the model's only input, with the batch: it tells a row from a batch of them; None where it is
    not known. What cannot be read comes as an InvalidInput in its place, so that the others are asked all the same."""
    for text in texts:
        try:
            yield from _requests(text, rank, stdin)
        except InvalidInput as error:
            yield error
        except OSError as error:
            yield InvalidInput(text, error.strerror or str(error))
        except utf8.NotUtf8 as error:
            yield InvalidInput("standard input" if text == "-" else text, str(error))


def _requests(text: str, rank: int | None, stdin: Any) -> Iterator[PredictRequest]:
    path = Path(text)
    if text == "-":
        yield _json("standard input", utf8.decode(stdin.read()))
    elif path.is_dir():
        pictures = sorted(found for found in path.rglob("*") if found.suffix.lower() in PICTURE_SUFFIXES)
        if not pictures:
            raise InvalidInput(text, f"no pictures in this folder; expected {_suffixes()}")
        for picture in pictures:
            yield PredictRequest(str(picture), picture=picture.read_bytes())
    elif path.is_file():
        yield _file(path, rank)
    else:
        yield _literal(text)


def _file(path: Path, rank: int | None) -> PredictRequest:
    match path.suffix.lower():
        case ".npy":
            return _array(str(path), _load(path), rank)
        case ".csv":
            return _array(str(path), _table(path), rank)
        case ".json":
            return _json(str(path), utf8.decode(path.read_bytes()))
    content = path.read_bytes()
    if path.suffix.lower() in PICTURE_SUFFIXES or looks_like_picture(content):
        return PredictRequest(str(path), picture=content)
    raise InvalidInput(str(path), f"expected a picture ({_suffixes()}), .npy, .csv or .json")


def _load(path: Path) -> np.ndarray[Any, Any]:
    try:
        loaded = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InvalidInput(str(path), f"no NumPy array: {error}") from None
    if not isinstance(loaded, np.ndarray) or loaded.dtype.kind not in "biufUS":
        raise InvalidInput(str(path), "no array of numbers, booleans or strings")
    return loaded


def _table(path: Path) -> np.ndarray[Any, Any]:
    """A row a line; a first line that is no numbers is taken for names."""
    rows = [row for row in csv.reader(StringIO(utf8.decode(path.read_bytes()), newline="")) if row]
    if rows and not all(map(_is_number, rows[0])):
        rows = rows[1:]
    if not rows:
        raise InvalidInput(str(path), "no rows; expected numbers, a row a line")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise InvalidInput(str(path), f"row {number} has {len(row)} values, the first has {len(rows[0])}")
        if wrong := [cell for cell in row if not _is_number(cell)]:
            raise InvalidInput(str(path), f"row {number} has {wrong[0]!r}; expected a number")
    return np.array(rows, dtype=np.float64)


def _array(name: str, array: np.ndarray[Any, Any], rank: int | None) -> PredictRequest:
    if rank is not None and array.ndim == rank - 1:
        array = array[np.newaxis]
    elif rank is not None and array.ndim == rank + 1 and array.shape[-1] == 1:
        # A CSV of one column, for a model of single numbers.
        array = array[..., 0]
    if array.ndim == 0:
        array = array[np.newaxis]
    if array.dtype.kind == "S":
        array = array.astype(str)
    return PredictRequest(name, body={"instances": array.tolist()})


def _literal(text: str) -> PredictRequest:
    """A number, numbers with commas between, or JSON."""
    if text.lstrip()[:1] in ("[", "{", '"'):
        return _json(text if len(text) <= 40 else f"{text[:37]}...", text)
    cells = text.split(",")
    if not all(map(_is_number, cells)):
        raise InvalidInput(text, "no such file, and no number; expected a number, JSON, a file or a folder")
    numbers = [_number(cell) for cell in cells]
    return PredictRequest(text, body={"instances": [numbers if len(numbers) > 1 else numbers[0]]})


def _json(name: str, text: str) -> PredictRequest:
    """A whole request, or one row of it."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInput(name, f"no JSON: {error}") from None
    if isinstance(value, dict) and value.keys() & _KEYS:
        return PredictRequest(name, body=value)
    return PredictRequest(name, body={"instances": [value]})


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(text: str) -> float | int:
    """Whole ones stay whole: some models take nothing else."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def _suffixes() -> str:
    return ", ".join(sorted(PICTURE_SUFFIXES))
