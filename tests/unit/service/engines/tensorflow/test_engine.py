"""TensorFlow's error messages. tests/integration tests the engine itself, with TensorFlow."""

from pathlib import Path

import numpy as np
import pytest

from service.engines.tensorflow.engine import graph_error, sentence
from service.errors import InvalidRequest
from service.tensors.dtypes import Array
from tests.unit.service.fakes import signature, tensor

VERSION = Path("/srv/models/coat/1")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("indices[0] = 5 is not in [0, 2)", "indices[0] = 5 is not in [0, 2)"),
        (
            "assertion failed: [too long] [Condition x <= y did not hold.]\n\t [[{{node Assert/Assert}}]]",
            "assertion failed: [too long] [Condition x <= y did not hold.]",
        ),
        (
            "2 root error(s) found.\n  (0) INVALID_ARGUMENT: too long\n\t [[{{node a}}]]\n"
            "  (1) INVALID_ARGUMENT: too short\n\t [[{{node b}}]]\n0 successful operations.",
            "too long",
        ),
        (
            "Op type not registered 'Frobnicate' in binary running on web-7. Make sure the Op and Kernel are there",
            "Op type not registered 'Frobnicate'",
        ),
        (
            "No OpKernel was registered to support Op 'PyFunc' used by {{node call/PyFunc}} with these attrs: [Tin=[]]"
            "\nRegistered devices: [CPU]",
            "No OpKernel was registered to support Op 'PyFunc' used by call/PyFunc",
        ),
        ("Can't parse /srv/models/coat/1/saved_model.pb as binary proto", "Can't parse saved_model.pb as binary proto"),
        (
            "/srv/models/coat/1/assets/words.txt; No such file or directory",
            "assets/words.txt; No such file or directory",
        ),
        ("/srv/models/coat/1; Permission denied", "its folder; Permission denied"),
    ],
)
def test_a_sentence_names_neither_nodes_nor_the_machine(message: str, expected: str) -> None:
    assert sentence(message, VERSION) == expected


PAIR = signature({"a": tensor("DT_FLOAT", -1), "b": tensor("DT_FLOAT", 1, 2)})


def fitting() -> dict[str, Array]:
    return {"a": np.zeros(3), "b": np.zeros((1, 2))}


@pytest.mark.parametrize(
    ("code", "status", "blames"),
    [
        (1, 499, "failed"),  # CANCELLED
        (2, 500, "failed"),  # UNKNOWN
        (3, 400, "refuses this input"),  # INVALID_ARGUMENT
        (4, 504, "failed"),  # DEADLINE_EXCEEDED
        (5, 404, "refuses this input"),  # NOT_FOUND
        (6, 409, "refuses this input"),  # ALREADY_EXISTS
        (7, 403, "refuses this input"),  # PERMISSION_DENIED
        (8, 429, "failed"),  # RESOURCE_EXHAUSTED
        (9, 400, "refuses this input"),  # FAILED_PRECONDITION
        (10, 409, "refuses this input"),  # ABORTED
        (11, 400, "refuses this input"),  # OUT_OF_RANGE
        (12, 501, "failed"),  # UNIMPLEMENTED
        (13, 500, "failed"),  # INTERNAL
        (14, 503, "failed"),  # UNAVAILABLE
        (15, 400, "refuses this input"),  # DATA_LOSS: 500 in TensorFlow Serving
        (16, 401, "refuses this input"),  # UNAUTHENTICATED
        (99, 500, "failed"),
    ],
)
def test_codes_have_the_status_of_tensorflow_serving(code: int, status: int, blames: str) -> None:
    error = graph_error(code, "it is so", PAIR, fitting())
    assert (error.status, str(error)) == (status, f"the model {blames}: it is so")
    assert isinstance(error, InvalidRequest) == (status == 400)


@pytest.mark.parametrize(("code", "status"), [(3, 400), (5, 404), (12, 400), (13, 400)])
def test_an_undeclared_shape_is_named_and_blamed(code: int, status: int) -> None:
    error = graph_error(code, "In[0] is no matrix", PAIR, fitting() | {"b": np.zeros(5)})
    told = "the model refuses this input: In[0] is no matrix ('b' has the shape [5], declared is [1, 2])"
    assert (error.status, str(error)) == (status, told)
