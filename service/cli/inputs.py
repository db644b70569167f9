"""Requests from the inputs on the command line: numbers, text, JSON, files and folders."""

import errno
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from service.runtime import utf8
from service.tensors.dtypes import Array
from service.tensors.files import (
    PICTURE_SUFFIXES,
    InvalidInput,
    PredictRequest,
    as_rows,
    is_number,
    json_request,
    picture_suffixes,
    read_file,
)

# Of the JSON of a part of an array. A server takes more, but eight parts are in memory at a time.
MAX_PART_BYTES = 2**20
# The outlier scores of a part's rows are a header of the response, which may have 64 kB.
MAX_PART_ROWS = 256
# Characters of an integer in JSON by its size in bytes, at most, with a comma and a blank.
_INTEGER_CHARACTERS = {1: 6, 2: 8, 4: 13, 8: 22}


@dataclass(frozen=True)
class ModelInput:
    """What the metadata says of an input. `rank`: with the batch dimension; None if unknown."""

    rank: int | None = None
    is_text: bool = False


@dataclass(frozen=True)
class Item:
    """A request, or why it cannot be made.

    `rows`: how many it has, as far as its source counts them. `first_row`: its place in an array that is sent in parts.
    `folders`: those between the folder on the command line and a picture; one may be named like the picture's label.
    """

    request: PredictRequest | InvalidInput
    rows: int = 1
    first_row: int | None = None
    folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """One input of the command line. `rows`: of all its items, which are read as they are taken."""

    items: Iterator[Item]
    rows: int = 1


def source(text: str, inputs: Mapping[str, ModelInput], stdin: Any) -> Source:
    """`inputs`: of the model's signature. An input that cannot be read becomes an item that says why."""
    path = Path(text)
    try:
        mode = _mode(path) if text else 0
        if stat.S_ISDIR(mode):
            return _folder(path)
        if mode and path.suffix.lower() in (".npy", ".npz"):
            arrays = ArrayFile(path, inputs)
            return Source(_guarded(text, arrays.items()), arrays.rows)
    except InvalidInput as error:
        return Source(iter([Item(error)]))
    except OSError as error:
        return Source(iter([Item(InvalidInput(text, error.strerror or str(error)))]))
    return Source(_guarded(text, _single(text, path if mode else None, inputs, stdin)))


def _mode(path: Path) -> int:
    """Of a file or folder; 0 if there is none. Raises OSError."""
    try:
        return path.stat().st_mode
    except OSError as error:
        # A sentence may be longer than any file's name.
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            return 0
        raise
    except ValueError:  # a null character
        return 0


def _guarded(text: str, items: Iterator[Item]) -> Iterator[Item]:
    try:
        yield from items
    except InvalidInput as error:
        yield Item(error)
    except OSError as error:
        yield Item(InvalidInput(text, error.strerror or str(error)))
    except utf8.NotUtf8 as error:
        yield Item(InvalidInput("standard input" if text == "-" else text, str(error)))


def _single(text: str, path: Path | None, inputs: Mapping[str, ModelInput], stdin: Any) -> Iterator[Item]:
    """`path`: of the file, if it is one."""
    only = next(iter(inputs.values())) if len(inputs) == 1 else ModelInput()
    if text == "-":
        yield Item(json_request("standard input", utf8.decode(stdin.read())))
    elif path:
        yield Item(read_file(path, only.rank))
    else:
        yield Item(_literal(text, only))


def _folder(folder: Path) -> Source:
    pictures = sorted(found for found in folder.rglob("*") if found.suffix.lower() in PICTURE_SUFFIXES)
    if not pictures:
        raise InvalidInput(str(folder), f"no pictures in this folder; expected {picture_suffixes()}")

    def items() -> Iterator[Item]:
        for picture in pictures:
            folders = picture.relative_to(folder).parent.parts
            try:
                yield Item(PredictRequest(str(picture), picture=picture.read_bytes()), folders=folders)
            except OSError as error:
                yield Item(InvalidInput(str(picture), error.strerror or str(error)), folders=folders)

    return Source(items(), len(pictures))


def _literal(text: str, model_input: ModelInput) -> PredictRequest:
    """A number, numbers separated by commas, JSON, or text for a model of texts."""
    if not text.strip():
        raise InvalidInput(repr(text), "this input is empty; expected a number, text, JSON, a file or a folder")
    name = text if len(text) <= 40 else f"{text[:37]}..."
    if text.lstrip()[:1] in ("[", "{", '"'):
        try:
            return json_request(name, text)
        except InvalidInput:
            # A text may begin so, too.
            if not model_input.is_text:
                raise
    if model_input.is_text:
        return PredictRequest(name, body={"instances": [_row(text, model_input)]})
    cells = text.split(",")
    if not all(map(is_number, cells)):
        raise InvalidInput(text, "no such file, and no number; expected a number, JSON, a file or a folder")
    numbers = [_number(cell) for cell in cells]
    return PredictRequest(text, body={"instances": [numbers if len(numbers) > 1 else _row(numbers[0], model_input)]})


def _row(value: Any, model_input: ModelInput) -> Any:
    """A row of one value, as deep as the input's rows are."""
    for _ in range((model_input.rank or 1) - 1):
        value = [value]
    return value


def _number(text: str) -> float | int:
    """An int if possible: some models accept nothing else."""
    try:
        return int(text)
    except ValueError:
        return float(text)


class ArrayFile:
    """A `.npy`, or a `.npz` with an array for each of the model's inputs; sent in parts, and never whole in memory.

    `rows`: of the arrays. Raises InvalidInput, OSError.
    """

    def __init__(self, path: Path, inputs: Mapping[str, ModelInput]) -> None:
        self._path = path
        self._inputs = inputs
        with ExitStack() as stack:
            arrays = self._open(stack)
            rows = {name: array.rows for name, array in arrays.items()}
            self.rows = next(iter(rows.values()))
            if different := [name for name in rows if rows[name] != self.rows]:
                first, other = next(iter(rows)), different[0]
                raise self._invalid(f"{first!r} has {rows[first]} rows, {other!r} has {rows[other]}")
            if not self.rows:
                raise self._invalid("no rows")
            row_bytes = sum(array.row_characters for array in arrays.values())
        self._part_rows = min(max(1, MAX_PART_BYTES // max(1, row_bytes)), MAX_PART_ROWS)

    def items(self) -> Iterator[Item]:
        """Raises InvalidInput, OSError."""
        has_parts = self.rows > self._part_rows
        with ExitStack() as stack:
            arrays = self._open(stack)
            for first in range(0, self.rows, self._part_rows):
                count = min(self._part_rows, self.rows - first)
                columns = {name: array.read(count) for name, array in arrays.items()}
                if len(self._inputs) > 1:
                    instances = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
                else:
                    (instances,) = columns.values()
                request = PredictRequest(str(self._path), body={"instances": instances})
                yield Item(request, count, first if has_parts else None)

    def _open(self, stack: ExitStack) -> dict[str, "_Array"]:
        """The arrays by the names of their inputs."""
        path = self._path
        if path.suffix.lower() == ".npy":
            if len(self._inputs) > 1:
                names = ", ".join(map(repr, self._inputs))
                raise self._invalid(
                    f"one array, but the model has the inputs {names}; expected a .npz with these names"
                )
            (name, model_input) = next(iter(self._inputs.items()))
            return {name: _Array(str(path), stack.enter_context(path.open("rb")), model_input.rank)}
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
        except zipfile.BadZipFile as error:
            raise self._invalid(f"no .npz: {error}") from None
        members = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
        if len(self._inputs) == len(members) == 1:
            # Whatever it is called: numpy.savez calls it arr_0.
            members = dict(zip(self._inputs, members.values(), strict=True))
        if missing := [name for name in self._inputs if name not in members]:
            found = ", ".join(map(repr, members)) or "nothing"
            raise self._invalid(f"no array {missing[0]!r}, which is an input of the model; the file has {found}")
        try:
            files = {name: stack.enter_context(archive.open(members[name])) for name in self._inputs}
        except (zipfile.BadZipFile, RuntimeError) as error:  # damaged, or packed in a way that Python cannot read
            raise self._invalid(f"no .npz: {error}") from None
        return {name: _Array(f"{path}: {members[name]}", file, self._inputs[name].rank) for name, file in files.items()}

    def _invalid(self, message: str) -> InvalidInput:
        return InvalidInput(str(self._path), message)


class _Array:
    """One array, read from its file row by row. `rank`: of the model's input; it tells one row from a batch.

    Raises InvalidInput, OSError.
    """

    def __init__(self, name: str, file: IO[bytes], rank: int | None) -> None:
        self._name = name
        self._file = file
        self._rank = rank
        try:
            read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(file)]
            self._shape, is_fortran, self._dtype = read_header(file)
        except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise InvalidInput(name, f"no NumPy array: {error}") from None
        if self._dtype.kind not in "biufUS":
            raise InvalidInput(name, f"an array of {self._dtype}; expected numbers, booleans or strings")
        is_row = not self._shape or (rank is not None and len(self._shape) == rank - 1)
        if is_row:
            self._shape = (1, *self._shape)
        self.rows = self._shape[0]
        self.row_characters = prod(self._shape[1:]) * _characters(self._dtype)
        # Its rows do not lie one behind the other.
        self._columns = self._read(self.rows, self._shape[::-1]).T if is_fortran else None
        self._taken = 0

    def read(self, count: int) -> Any:
        """The next rows, as lists."""
        if self._columns is not None:
            found = self._columns[self._taken : self._taken + count]
        else:
            found = self._read(count, (count, *self._shape[1:]))
        self._taken += count
        if found.dtype.kind == "S":
            try:
                found = np.char.decode(found, "utf-8")
            except UnicodeDecodeError:
                raise InvalidInput(self._name, "bytes that are not UTF-8; expected text") from None
        # The rank counts the rows as well, so this array is a batch.
        return as_rows(found, self._rank).tolist()

    def _read(self, count: int, shape: tuple[int, ...]) -> Array:
        wanted = count * prod(self._shape[1:]) * self._dtype.itemsize
        try:
            content = self._file.read(wanted)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise InvalidInput(self._name, f"the archive is damaged: {error}") from None
        if len(content) < wanted:
            raise InvalidInput(self._name, "the file ends within the array")
        return np.frombuffer(content, self._dtype).reshape(shape)


def _characters(dtype: "np.dtype[Any]") -> int:
    """Of a value in JSON, at most, with a comma and a blank."""
    match dtype.kind:
        case "i" | "u":
            return _INTEGER_CHARACTERS[dtype.itemsize]
        case "f":
            # A float32 is written as the double that it is.
            return 26
        case "b":
            return 7
    return dtype.itemsize + 4
