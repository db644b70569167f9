"""What stands on the command line, as requests."""

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
    """A number, numbers with commas between, or JSON."""
    if text.lstrip()[:1] in ("[", "{", '"'):
        return json_request(text if len(text) <= 40 else f"{text[:37]}...", text)
    cells = text.split(",")
    if not all(map(is_number, cells)):
        raise InvalidInput(text, "no such file, and no number; expected a number, JSON, a file or a folder")
    numbers = [_number(cell) for cell in cells]
    return PredictRequest(text, body={"instances": [numbers if len(numbers) > 1 else numbers[0]]})


def _number(text: str) -> float | int:
    """Whole ones stay whole: some models take nothing else."""
    try:
        return int(text)
    except ValueError:
        return float(text)
