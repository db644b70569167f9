"""TensorFlow's errors. tests/integration tests the engine itself, with TensorFlow."""

from pathlib import Path

import numpy as np
import pytest

from service.engines.tensorflow.engine import graph_error, sentence
from service.errors import InvalidRequest
from tests.unit.service.fakes import signature, tensor

VERSION = Path("/srv/models/coat/1")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "2 root error(s) found.\n  (0) INVALID_ARGUMENT: too long\n\t [[{{node a}}]]\n"
            "  (1) INVALID_ARGUMENT: too short\n\t [[{{node b}}]]\n0 successful operations.",
            "too long",
        ),
        ("Op type not registered 'Odd' in binary running on web-7. Make sure the Op", "Op type not registered 'Odd'"),
        (
            "No OpKernel was registered to support Op 'PyFunc' used by {{node call/PyFunc}} with these attrs: [Tin=[]]"
            "\nRegistered devices: [CPU]",
            "No OpKernel was registered to support Op 'PyFunc' used by call/PyFunc",
        ),
        ("Can't parse /srv/models/coat/1/saved_model.pb", "Can't parse saved_model.pb"),
        ("/srv/models/coat/1/assets/words.txt; No such file", "assets/words.txt; No such file"),
        ("/srv/models/coat/1; Permission denied", "its folder; Permission denied"),
    ],
)
def test_sentence_names_neither_nodes_nor_the_machine(message: str, expected: str) -> None:
    assert sentence(message, VERSION) == expected


PAIR = signature({"a": tensor("DT_FLOAT", -1), "b": tensor("DT_FLOAT", 1, 2)})
FITTING = {"a": np.zeros(3), "b": np.zeros((1, 2))}

# By TensorFlow's code. DATA_LOSS (15) is 500 in TensorFlow Serving.
REFUSED = {3: 400, 5: 404, 6: 409, 7: 403, 9: 400, 10: 409, 11: 400, 15: 400, 16: 401}
FAILED = {1: 499, 2: 500, 4: 504, 8: 429, 12: 501, 13: 500, 14: 503, 99: 500}


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        *((code, status, "the model refuses this input: it is so") for code, status in REFUSED.items()),
        *((code, status, "the model failed: it is so") for code, status in FAILED.items()),
    ],
)
def test_codes_have_the_status_of_tensorflow_serving(code: int, status: int, message: str) -> None:
    error = graph_error(code, "it is so", PAIR, FITTING)
    assert (error.status, str(error)) == (status, message)
    assert isinstance(error, InvalidRequest) == (status == 400)


@pytest.mark.parametrize(("code", "status"), [(3, 400), (5, 404), (12, 400), (13, 400)])
def test_undeclared_shape_is_named_and_blamed(code: int, status: int) -> None:
    error = graph_error(code, "In[0] is no matrix", PAIR, FITTING | {"b": np.zeros(5)})
    told = "the model refuses this input: In[0] is no matrix ('b' has the shape [5], declared is [1, 2])"
    assert (error.status, str(error)) == (status, told)
