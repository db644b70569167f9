"""Examples: the rows that an imported model is tried with, read from files and arrays, or made up."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from service.api.v1.decode import Body, decode_examples, decode_predict
from service.errors import ServingError
from service.runtime import utf8
from service.serving_config import ImageSpec
from service.tensors.dtypes import DTYPES
from service.tensors.files import PICTURE_SUFFIXES, is_number
from service.tensors.image import decode_picture, takes_pictures
from service.tensors.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from training.data import Array, picture_folder
from training.errors import DatasetError

EXPECTED = "expected .npy, .npz, .csv, .json, pictures, or a folder of pictures per class"
# What the column or array of the right answers may be called.
ANSWERS = ("label", "labels", "class", "target", "y", "y_test")
# Rows that are made up where too few are given.
MIN_ROWS = 64
FREE_SIZES = (8, 16)  # of axes that are free, beside the batch
OTHER_SIZE = 13  # with which a twin is tried as well
FREE_SIDE = 64  # of pictures
WORDS = ("red", "blue", "a shoe", "two words", "Straße", "42", "", "something longer than the rest of them")
MAX_SCALED = 2  # of what a model takes whose graph scales
MAX_INTEGERS = (1000, 100, 10, 2)

Arrays = dict[str, Array]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """`inputs`: by name, as the graph takes them. `answers` [n]: what is right, places of `names` or numbers. `files`:
    the pictures that they were read from. `made_up`: how many of the last rows nobody gave."""

    inputs: Arrays
    answers: Array | None = None
    names: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    made_up: int = 0

    @property
    def count(self) -> int:
        return len(next(iter(self.inputs.values())))

    def given(self) -> "Examples":
        """Without those that are made up."""
        count = self.count - self.made_up
        return replace(self, inputs={name: array[:count] for name, array in self.inputs.items()}, made_up=0)

    def part(self, count: int) -> "Examples":
        """At most so many, spread evenly over those that were given, then over those that are made up."""
        given = self.count - self.made_up
        own = np.unique(np.linspace(0, given - 1, min(count, given)).astype(int)) if given else np.arange(0)
        more = min(self.made_up, count - len(own))
        places = np.concatenate([own, np.arange(given, given + more)])
        return replace(
            self,
            inputs={name: array[places] for name, array in self.inputs.items()},
            answers=self.answers[own] if self.answers is not None else None,
            files=tuple(self.files[place] for place in own) if self.files else (),
            made_up=more,
        )

    def __str__(self) -> str:
        given = self.count - self.made_up
        parts = [f"{given:,} examples"] if given else []
        return " and ".join(parts + [f"{self.made_up:,} made-up inputs"] * bool(self.made_up))


def read(
    given: Any, answers: Any, signature: Signature, image: ImageSpec | None, names: tuple[str, ...], scale: float
) -> Examples:
    """`given`: arrays, or the path of a file or folder. `scale`: what the graph multiplies its input by; arrays are
    what the model takes after that.

    DatasetError where they are not the signature's inputs.
    """
    try:
        if isinstance(given, str | Path):
            examples = _read_path(Path(given), signature, image, names, scale)
        else:
            examples = from_arrays(given, None, signature, names, scale)
        return examples if answers is None else with_answers(examples, np.asarray(answers))
    except (ValueError, EOFError, ServingError, DatasetError) as error:
        where = given if isinstance(given, str | Path) else "examples"
        text = str(error)
        raise DatasetError(text if str(where) in text else f"{where}: {text}") from None


def _read_path(
    path: Path, signature: Signature, image: ImageSpec | None, names: tuple[str, ...], scale: float
) -> Examples:
    if not path.exists():
        raise DatasetError(f"{path}: no such file or folder; {EXPECTED}")
    suffix = path.suffix.lower()
    if path.is_dir() or suffix in PICTURE_SUFFIXES:
        return _pictures(path, signature, image, names)
    if suffix in (".npy", ".npz"):
        loaded = np.load(path, allow_pickle=False)
        arrays = loaded if isinstance(loaded, np.ndarray) else dict(loaded)
        return from_arrays(arrays, None, signature, names, scale)
    if suffix == ".csv":
        return from_arrays(*_table(utf8.decode(path.read_bytes()), signature), signature, names, scale)
    if suffix == ".json":
        return _requests(utf8.decode(path.read_bytes()), signature, names)
    raise DatasetError(f"{path}: {EXPECTED}")


def from_arrays(arrays: Any, answers: Any, signature: Signature, names: tuple[str, ...], scale: float = 1) -> Examples:
    """Of one array, or of a dict with one for each input, which may hold the answers as well."""
    wanted = signature.inputs
    if isinstance(arrays, Mapping):
        found = {str(name): np.asarray(array) for name, array in arrays.items()}
        if answers is None:
            answers = next((found[name] for name in ANSWERS if name in found and name not in wanted), None)
        if not wanted.keys() <= found.keys():
            rest = [array for name, array in found.items() if name not in ANSWERS]
            if len(wanted) > 1 or len(rest) != 1:
                raise DatasetError(f"it has {', '.join(found) or 'nothing'}; expected the inputs {', '.join(wanted)}")
            found = {next(iter(wanted)): rest[0]}
    else:
        if len(wanted) > 1:
            raise DatasetError(f"it has no names, and the model takes {', '.join(wanted)}; expected an array for each")
        found = {next(iter(wanted)): np.asarray(arrays)}
    inputs = {name: _fit(name, found[name], spec) for name, spec in wanted.items()}
    if len(counts := {len(array) for array in inputs.values()}) > 1:
        raise DatasetError(f"its inputs have {' and '.join(map(str, sorted(counts)))} rows; expected one number")
    if scale != 1:
        inputs = {name: _unscaled(array, scale) for name, array in inputs.items()}
    examples = Examples(inputs=inputs, names=names)
    if not examples.count:
        raise DatasetError("it has no rows")
    return examples if answers is None else with_answers(examples, np.asarray(answers))


def with_answers(examples: Examples, answers: Array) -> Examples:
    """Class names become places, one-hot rows too. DatasetError where there is not one for each row."""
    if answers.ndim == 2 and answers.shape[1] > 1:
        answers = answers.argmax(axis=1)
    answers = answers.reshape(-1)
    if len(answers) != examples.count:
        raise DatasetError(f"it has {len(answers)} answers for {examples.count} rows")
    if answers.dtype.kind in "OSU":
        texts = [each.decode() if isinstance(each, bytes) else str(each) for each in answers]
        names = examples.names or tuple(sorted(set(texts)))
        if unknown := sorted(set(texts) - set(names)):
            raise DatasetError(f"{unknown[0]!r} is none of the labels {', '.join(names)}")
        places = {name: place for place, name in enumerate(names)}
        return replace(examples, answers=np.array([places[text] for text in texts]), names=names)
    return replace(examples, answers=answers)


def made_up(
    signature: Signature,
    run: Run,
    count: int,
    max_integer: int | None,
    words: Sequence[str],
    given: Examples | None = None,
    sizes: Sequence[int] = FREE_SIZES,
) -> Examples | None:
    """Rows of the declared types, shapes and ranges, or within those of the `given`, that the model takes; None if it
    takes none. `max_integer`: what integers may be at most, else it is found by trying. `words`: some that the model
    knows. `sizes`: of free axes beside the batch, the first that the model takes."""
    random = np.random.default_rng(1)
    if given is not None:
        more = max(0, min(MIN_ROWS, count) - given.count)
        inputs = {name: np.concatenate([array, _between(array, more, random)]) for name, array in given.inputs.items()}
        return replace(given, inputs=inputs, made_up=more)
    for largest in [max_integer] if max_integer is not None else MAX_INTEGERS:
        for free in sizes:
            inputs = {
                name: _random(spec, count, largest, free, words, random) for name, spec in signature.inputs.items()
            }
            try:
                run({name: array[:1] for name, array in inputs.items()})
                if takes_any_rows(signature):
                    run({name: array[:2] for name, array in inputs.items()})
            except ServingError:
                continue
            return Examples(inputs=inputs, made_up=count)
    return None


def first_rows(inputs: Mapping[str, Array], count: int) -> Arrays:
    """At most so many, spread evenly from the first to the last."""
    rows = len(next(iter(inputs.values())))
    places = np.unique(np.linspace(0, rows - 1, min(count, rows)).astype(int))
    return {name: array[places] for name, array in inputs.items()}


def takes_any_rows(signature: Signature) -> bool:
    """Whether the first axis of each input is free, as far as that is declared."""
    return all(spec.shape is None or spec.shape[:1] == (-1,) for spec in signature.inputs.values())


def has_free_sizes(signature: Signature) -> bool:
    """Whether an axis beside the batch is free."""
    return any(spec.shape is not None and -1 in spec.shape[1:] for spec in signature.inputs.values())


def _random(
    spec: TensorSpec, count: int, largest: int, free: int, words: Sequence[str], random: np.random.Generator
) -> Array:
    declared = spec.shape if spec.shape else (-1,)
    is_picture = len(declared) == 4 and declared[-1] in (1, 3)
    inner = [size if size != -1 else FREE_SIDE if is_picture else free for size in declared[1:]]
    shape = [count if declared[0] == -1 else declared[0], *inner]
    dtype = DTYPES.get(spec.dtype, np.dtype(np.float32))
    if dtype.kind == "O":
        pairs = [f"{one} {other}" for one, other in pairwise(words)]
        texts: Array = random.choice(np.array([text.encode() for text in (*words, *pairs, *WORDS)], object), shape)
        return texts
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        low, high = (limits.min, limits.max) if dtype.itemsize == 1 else (0, min(limits.max, largest))
        return random.integers(low, high, shape, endpoint=True).astype(dtype)
    if is_picture:
        return random.uniform(0, 255, shape).astype(dtype)
    return random.normal(size=shape).astype(dtype)


def _between(array: Array, count: int, random: np.random.Generator) -> Array:
    """Rows with values between the smallest and the largest of each place; of strings, some of the given."""
    if array.dtype.kind == "O":
        return array[random.integers(0, len(array), count)]
    low, high = array.min(axis=0), array.max(axis=0)
    if array.dtype.kind in "iub":
        return random.integers(low.astype(int), high.astype(int), (count, *array.shape[1:]), endpoint=True).astype(
            array.dtype
        )
    return random.uniform(low, high, (count, *array.shape[1:])).astype(array.dtype)


def _fit(name: str, array: Array, spec: TensorSpec) -> Array:
    """The array in the input's type and rank. DatasetError where its rows have another shape."""
    dtype = DTYPES.get(spec.dtype)
    if dtype is None:
        raise DatasetError(f"the input {name!r} is of type {spec.dtype}, which requests cannot have")
    if dtype.kind == "O":
        texts = np.array([each if isinstance(each, bytes) else str(each).encode() for each in array.ravel()], object)
        array = texts.reshape(array.shape)
    elif array.dtype.kind not in "biuf":
        raise DatasetError(f"the input {name!r} takes numbers, and these are {array.dtype}")
    if spec.shape is not None:
        if array.ndim == len(spec.shape) - 1:
            # One row; or, of pictures and single numbers, rows without their last axis of one.
            array = array[..., np.newaxis] if spec.shape[-1] == 1 and len(spec.shape) > 1 else array[np.newaxis]
        elif array.ndim == len(spec.shape) + 1 and array.shape[-1] == 1:
            array = array[..., 0]
        fits = len(spec.shape) == array.ndim and all(
            size in (-1, here) for size, here in zip(spec.shape[1:], array.shape[1:], strict=True)
        )
        if not fits:
            raise DatasetError(
                f"the input {name!r} has the shape {list(spec.shape)} (-1: any size); these are {list(array.shape)}"
            )
    return array if dtype.kind == "O" else array.astype(dtype)


def _unscaled(array: Array, scale: float) -> Array:
    """What the graph takes, of what the model takes. Pixels that are not scaled yet stay as they are."""
    if array.dtype.kind != "f" or np.abs(array).max(initial=0) > MAX_SCALED:
        return array
    return (array / scale).astype(array.dtype)


def _table(text: str, signature: Signature) -> tuple[Any, Any]:
    """The inputs of a CSV file, and its answers. A first line that is not numbers holds the columns' names."""
    rows = [row for row in csv.reader(StringIO(text, newline="")) if row]
    is_text = any(DTYPES.get(spec.dtype, np.dtype(float)).kind == "O" for spec in signature.inputs.values())
    header = rows[0] if rows and (is_text or not all(map(is_number, rows[0]))) else None
    rows = rows[1:] if header else rows
    if not rows:
        raise DatasetError("no rows; expected a row a line")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]) or (header and len(row) != len(header)):
            raise DatasetError(f"row {number} has {len(row)} values, expected {len(header or rows[0])}")
    columns: dict[str, Array] = {}
    for place in range(len(rows[0])):
        cells = [row[place] for row in rows]
        name = header[place].strip() if header else str(place)
        columns[name] = np.array(cells, float) if all(map(is_number, cells)) else np.array(cells, object)
    answers = next((columns.pop(name) for name in list(columns) if name.lower() in ANSWERS), None)
    if answers is not None and answers.dtype.kind == "f" and (answers == answers.astype(int)).all():
        answers = answers.astype(int)
    if signature.inputs.keys() <= columns.keys() and (len(signature.inputs) > 1 or len(columns) == 1):
        return {name: columns[name] for name in signature.inputs}, answers
    if len(signature.inputs) > 1:
        raise DatasetError(f"its columns are {', '.join(columns)}; expected {', '.join(signature.inputs)}")
    (spec,) = signature.inputs.values()
    array = np.stack(list(columns.values()), axis=1)
    return array[:, 0] if spec.shape is not None and len(spec.shape) == 1 else array, answers


def _requests(text: str, signature: Signature, names: tuple[str, ...]) -> Examples:
    """A v1 body, or a list of rows; `labels` in it are the answers."""
    value = json.loads(text)
    fields = value if isinstance(value, dict) else {"instances": value}
    answers = next((fields[name] for name in ANSWERS if name in fields), None)
    decode = decode_examples if "examples" in fields else decode_predict
    examples = Examples(inputs=decode(Body(fields, DEFAULT_SIGNATURE), signature), names=names)
    return examples if answers is None else with_answers(examples, np.asarray(answers))


def _pictures(path: Path, signature: Signature, image: ImageSpec | None, names: tuple[str, ...]) -> Examples:
    """A picture, a folder of them, or a folder with one a class, whose names are the labels unless those are given."""
    if image is None or not takes_pictures(signature, image):
        raise DatasetError(f"{path}: the model takes no pictures; say how with --image, or give arrays")
    ((name, spec),) = signature.inputs.items()
    folders = (
        [each for each in path.iterdir() if each.is_dir() and not each.name.startswith(".")] if path.is_dir() else []
    )
    if folders:
        read = picture_folder.read(path, image, 0 if names else 1, names or None)
        pixels, files, answers = read.pixels, read.files, read.labels
        names = read.names
    else:
        candidates: Sequence[Path] = [path] if path.is_file() else sorted(path.iterdir())
        files = tuple(each for each in candidates if each.suffix.lower() in PICTURE_SUFFIXES)
        if not files:
            raise DatasetError(f"{path}: no pictures; {EXPECTED}")
        try:
            decoded = [decode_picture(each.read_bytes(), image, picture_folder.MAX_PIXELS, str(each)) for each in files]
        except ServingError as error:
            raise DatasetError(str(error)) from None
        pixels, answers = np.stack(decoded), None
    if spec.shape is not None and len(spec.shape) == 4 and pixels.ndim == 3:
        pixels = pixels[..., np.newaxis]
    return Examples(inputs={name: _fit(name, pixels, spec)}, answers=answers, names=names, files=tuple(files))
