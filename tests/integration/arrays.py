"""Values for an engine, and what it answers, briefly."""

from typing import Any

import numpy as np

from service.engines.base import Engine
from service.tensors.dtypes import Array


def run(engine: Engine, **inputs: Any) -> dict[str, Any]:
    """The outputs of the default signature as lists."""
    return {name: array.tolist() for name, array in engine.run("serving_default", inputs).items()}


def floats(*values: float) -> Array:
    return np.array(values, np.float32)


def texts(*values: bytes) -> Array:
    array = np.empty(len(values), object)
    array[:] = values
    return array
