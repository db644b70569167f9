import math

import numpy as np
import pytest

from service.errors import InvalidRequest
from service.signature import DEFAULT_SIGNATURE
from service.tensors import Array
from service.warm_up import RUNS, warm_up
from tests.unit.service.fakes import Arrays, FakeEngine, any_shape, echo, signature, tensor


def test_a_model_is_run_on_one_row_of_zeros_and_timed() -> None:
    of = signature({"x": tensor("DT_FLOAT", -1, 28, -1), "word": tensor("DT_STRING", -1), "n": tensor("DT_INT32")})
    engine = FakeEngine({DEFAULT_SIGNATURE: of}, echo)
    assert 0 < warm_up(engine) < math.inf
    assert len(engine.asked) == RUNS
    name, inputs = engine.asked[0]
    assert name == DEFAULT_SIGNATURE
    assert (inputs["x"].shape, inputs["x"].dtype) == ((1, 28, 1), np.float32)
    assert inputs["word"].tolist() == [b""]
    assert inputs["n"].shape == ()


@pytest.mark.parametrize("spec", [any_shape("DT_FLOAT"), tensor("DT_RESOURCE", -1)])
def test_a_model_whose_input_cannot_be_made_up_counts_as_slow(spec: object) -> None:
    engine = FakeEngine({DEFAULT_SIGNATURE: signature({"x": spec})}, echo)  # type: ignore[dict-item]
    assert warm_up(engine) == math.inf
    assert engine.asked == []


def test_a_model_without_a_default_signature_counts_as_slow() -> None:
    assert warm_up(FakeEngine({"other": signature({"x": tensor("DT_FLOAT", -1)})}, echo)) == math.inf


def test_a_model_that_refuses_zeros_is_loaded_all_the_same() -> None:
    def refuse(_inputs: Arrays) -> dict[str, Array]:
        raise InvalidRequest("zeros are no picture")

    engine = FakeEngine({DEFAULT_SIGNATURE: signature({"x": tensor("DT_FLOAT", -1)})}, refuse)
    assert warm_up(engine) == math.inf
