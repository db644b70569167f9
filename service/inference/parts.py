"""A request with more rows than a version runs together, run in parts: a run takes memory for each of its rows."""

from collections.abc import Callable

import numpy as np

from service.inference.batch import Arrays, has_rows
from service.inference.context import Call
from service.tensors.json import Array


def run_in_parts(
    run: Callable[[Arrays], dict[str, Array]],
    inputs: Arrays,
    rows: int,
    most_rows: int,
    call: Call,
    contradict: Callable[[], None],
) -> dict[str, Array]:
    """What `run`, which notes its time in the call, gives for all rows. Others take their turn between the parts, and
    what nobody waits for any more ends with the part that is run. `contradict` is told where the outputs do not have a
    row for each of the inputs' rows; then all are run at once."""
    parts = []
    began = seconds = 0.0
    for first in range(0, rows, most_rows):
        outputs = run({name: array[first : first + most_rows] for name, array in inputs.items()})
        began = began or call.run_began
        seconds += call.run_seconds
        if not has_rows(outputs, min(most_rows, rows - first)):
            contradict()
            return run(inputs)
        call.ran(began, seconds, most_rows)
        parts.append(outputs)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
