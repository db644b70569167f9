"""Requests from the inputs on the command line: numbers, JSON, files and folders."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from service.runtime import utf8
from service.tensors.files import (
    PICTURE_SUFFIXES,
    InvalidInput,
    PredictRequest,
    is_number,
    json_request,
    picture_suffixes,
    read_file,
)


def requests(texts: Sequence[str], rank: int | None, stdin: Any) -> Iterator[PredictRequest | InvalidInput]:
    """A request for each input, in order; an InvalidInput for one that cannot be read.

    `rank`: of the model's only input, with the batch dimension; it tells one row from a batch. None if unknown.
    """
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
        yield json_request("standard input", utf8.decode(stdin.read()))
    elif path.is_dir():
        pictures = sorted(found for found in path.rglob("*") if found.suffix.lower() in PICTURE_SUFFIXES)
        if not pictures:
            raise InvalidInput(text, f"no pictures in this folder; expected {picture_suffixes()}")
        for picture in pictures:
            yield PredictRequest(str(picture), picture=picture.read_bytes())
    elif path.is_file():
        yield read_file(path, rank)
    else:
        yield _literal(text)


def _literal(text: str) -> PredictRequest:
    """A number, numbers separated by commas, or JSON."""
    if text.lstrip()[:1] in ("[", "{", '"'):
        return json_request(text if len(text) <= 40 else f"{text[:37]}...", text)
    cells = text.split(",")
    if not all(map(is_number, cells)):
        raise InvalidInput(text, "no such file, and no number; expected a number, JSON, a file or a folder")
    numbers = [_number(cell) for cell in cells]
    return PredictRequest(text, body={"instances": [numbers if len(numbers) > 1 else numbers[0]]})


def _number(text: str) -> float | int:
    """An int if possible: some models accept nothing else."""
    try:
        return int(text)
    except ValueError:
        return float(text)
