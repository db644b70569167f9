"""The interface of an engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from service.errors import InvalidRequest
from service.tensors.dtypes import DTYPES, Array, declared_shape, shape_text
from service.tensors.signature import Signature


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How models without a proved twin are loaded. `op_libraries`: with operations that TensorFlow does not have
    itself. `tags`: of the graph. The numbers of threads: TensorFlow's; 0 for one for each usable core. `prefer_tflite`:
    run a LiteRT model that lies where TensorFlow Serving looks for it, not in `assets.extra`."""

    op_libraries: Sequence[Path] = ()
    tags: tuple[str, ...] = ("serve",)
    intra_op_threads: int = 0
    inter_op_threads: int = 0
    prefer_tflite: bool = False


class LoadError(Exception):
    """A version cannot be loaded; the message says why, and what to do about it."""


class Engine(Protocol):
    """Runs the signatures of one version. Safe to use from several threads; closed when it is collected."""

    name: str
    signatures: Mapping[str, Signature]
    # Whether a run uses only the calling thread, so that the thread's CPU time is the cost of the run.
    runs_on_caller: bool

    def run(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Every output of the signature, by name.

        `inputs` has an array for each of the signature's inputs, of the declared type and shape.

        Raises:
            InvalidRequest: the model rejects these values.
        """

    def release(self) -> None:
        """Release memory that is kept for runs of other sizes than the last run's."""


def outputs_of_no_rows(signature: Signature, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs without rows, of the types and row shapes that the signature declares. Many graphs cannot run without
    rows: a convolution needs something to convolve.

    Raises:
        InvalidRequest: an input has rows but no values, or the signature does not declare the shape of the outputs'
            rows.
    """
    for name, array in inputs.items():
        if not array.ndim or len(array) or (signature.inputs[name].shape or ())[:1] != (-1,):
            nothing = name if not array.size else next(name for name, array in inputs.items() if not array.size)
            raise InvalidRequest(
                f"input {nothing!r} has the shape {shape_text(inputs[nothing].shape)}, so no values; the model takes "
                "only inputs with values, or none at all with any row"
            )
    outputs = {}
    for name, spec in signature.outputs.items():
        dtype = DTYPES.get(spec.dtype)
        if dtype is None or not spec.shape or spec.shape[0] != -1 or -1 in spec.shape[1:]:
            raise InvalidRequest(
                f"the inputs have no rows, and what the model gives for none is not known: its output {name!r} is "
                f"declared {declared_shape(spec)}; expected at least one row"
            )
        outputs[name] = np.empty((0, *spec.shape[1:]), dtype)
    return outputs
