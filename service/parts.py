"""A request with more rows than a version runs together, run in parts: a run takes memory for each of its rows."""

from collections.abc import Callable

import numpy as np

from service.batch import Arrays
from service.calls import Call
from service.tensors import Array


def run_in_parts(
    run: Callable[[Arrays], dict[str, Array]], inputs: Arrays, rows: int, most_rows: int, call: Call
) -> dict[str, Array]:
    """What `run`, which notes its time in the call, gives for all rows. Others take their turn between the parts, and
    what nobody waits for any more ends with the part that is run."""
    parts = []
    began = seconds = 0.0
    for first in range(0, rows, most_rows):
        outputs = run({name: array[first : first + most_rows] for name, array in inputs.items()})
        began = began or call.run_began
        seconds += call.run_seconds
        if any(not array.ndim or len(array) != min(most_rows, rows - first) for array in outputs.values()):
            # Not a row for each of the request's, whatever the signature says.
            return run(inputs)
        call.ran(began, seconds, most_rows)
        parts.append(outputs)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
