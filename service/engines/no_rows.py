"""What comes of inputs without rows, which many a graph cannot be run on: a convolution wants something to convolve."""

from collections.abc import Mapping

import numpy as np

from service.errors import InvalidRequest
from service.tensors.json import DTYPES, Array, declared_shape, shape_text
from service.tensors.signature import Signature


def outputs_of_no_rows(signature: Signature, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs without rows, of the types and the shapes of rows that the signature declares.

    Raises:
        InvalidRequest: an input has no values though it has rows, or the signature does not say of what shape the
            outputs' rows are.
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
