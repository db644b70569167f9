"""The proof that a version's rows are independent. Without it the service never batches them."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from service.engines.base import Engine
from service.serving_config import RowProof
from training.data import Array

Arrays = Mapping[str, Array]
Run = Callable[[str, Arrays], dict[str, Array]]

ROWS = 16
# Kernels for other batch sizes add up in another order.
TOLERANCE = 1e-4


class RowsDepend(Exception):
    """Outputs of a row depend on the other rows, or differ from run to run; the message says where."""


def prove(engines: Iterable[Engine], inputs: Mapping[str, Arrays]) -> RowProof:
    """Runs rows alone, together, in another order and alone again, by each engine that has the signature.

    `inputs`: real rows, by signature and input, of which ROWS are used. Raises RowsDepend.
    """
    rows = {name: {key: pick_rows(array) for key, array in arrays.items()} for name, arrays in inputs.items()}
    largest = max(
        check(engine.run, name, arrays)
        for engine in engines
        for name, arrays in rows.items()
        if name in engine.signatures
    )
    return RowProof(
        signatures=tuple(sorted(rows)),
        rows_tried=min(len(array) for arrays in rows.values() for array in arrays.values()),
        largest_difference=largest,
        tolerance=TOLERANCE,
    )


def pick_rows(array: Array) -> Array:
    """ROWS rows, spread evenly from the first to the last."""
    rows: Array = array[np.unique(np.linspace(0, len(array) - 1, ROWS).astype(int))]
    return rows


def check(run: Run, signature: str, inputs: Arrays) -> float:
    """The largest difference of any output value, absolute up to 1, relative above. Raises RowsDepend."""
    count = len(next(iter(inputs.values())))
    order = np.random.default_rng(0).permutation(count)
    alone = _one_by_one(run, signature, inputs, count)
    others = {
        "together": run(signature, inputs),
        "in another order": _reordered(
            run(signature, {name: array[order] for name, array in inputs.items()}), np.argsort(order), count
        ),
        "in pairs": _concatenated(
            [
                run(signature, {name: array[start : start + 2] for name, array in inputs.items()})
                for start in range(0, count, 2)
            ]
        ),
        "alone again": _one_by_one(run, signature, inputs, count),
    }
    largest = 0.0
    for how, outputs in others.items():
        for name, expected in alone.items():
            largest = max(largest, _difference(f"{signature!r}: {name} of {count} rows {how}", expected, outputs[name]))
    return largest


def _one_by_one(run: Run, signature: str, inputs: Arrays, count: int) -> dict[str, Array]:
    parts = []
    for row in range(count):
        outputs = run(signature, {name: array[row : row + 1] for name, array in inputs.items()})
        for name, array in outputs.items():
            if array.shape[:1] != (1,):
                raise RowsDepend(f"{signature!r}: {name} of one row has the shape {list(array.shape)}, not one row")
        parts.append(outputs)
    return _concatenated(parts)


def _concatenated(parts: list[dict[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _reordered(outputs: dict[str, Array], order: Array, count: int) -> dict[str, Array]:
    return {name: array[order] if array.ndim and len(array) == count else array for name, array in outputs.items()}


def _difference(what: str, expected: Array, found: Array) -> float:
    if expected.shape != found.shape:
        raise RowsDepend(f"{what} has the shape {list(found.shape)}; one by one {list(expected.shape)}")
    if expected.dtype.kind not in "fc":
        if not np.array_equal(expected, found):
            raise RowsDepend(f"{what} is not what it is one by one")
        return 0.0
    difference = float((np.abs(expected - found) / np.maximum(np.abs(expected), 1)).max())
    if not difference <= TOLERANCE:  # so that NaN fails too
        raise RowsDepend(f"{what} differs by {difference:.3g} from one by one; allowed is {TOLERANCE:g}")
    return difference
