from typing import Any

import pytest
from msgspec.structs import replace

from service.engines.base import LoadError
from service.engines.outlier import ScoredEngine
from service.tensors.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from tests.unit.service.fakes import FakeEngine, any_shape, signature, tensor
from tests.unit.service.scored import INPUTS, OUTPUTS, SCORE, SIGNATURES, pixels, with_score

DEFAULT, SCORED = SIGNATURES[DEFAULT_SIGNATURE], SIGNATURES["scored"]
HELD = {"scored": SCORED}


@pytest.mark.parametrize("runs_on_caller", [True, False])
def test_it_has_the_signatures_of_the_saved_model(runs_on_caller: bool) -> None:
    held = FakeEngine(HELD, with_score, runs_on_caller=runs_on_caller)
    engine = ScoredEngine(held, SIGNATURES, SCORE)
    assert (engine.name, engine.signatures, engine.runs_on_caller) == (held.name, SIGNATURES, runs_on_caller)
    engine.release()
    assert held.releases == 1


@pytest.mark.parametrize(("name", "more"), [(DEFAULT_SIGNATURE, {}), ("scored", {"outlier_score": [255]})])
def test_scored_signature_runs_for_both(name: str, more: dict[str, object]) -> None:
    held = FakeEngine(HELD, with_score)
    given = ScoredEngine(held, SIGNATURES, SCORE).run(name, pixels(255))
    assert {output: array.tolist() for output, array in given.items()} == {"probabilities": [[0, 1]], **more}
    assert [ran for ran, _ in held.runs] == ["scored"]


def scored_as(score: TensorSpec | None, inputs: dict[str, TensorSpec] = INPUTS, **more: TensorSpec) -> Any:
    """`more`: in place of the other outputs."""
    outputs = OUTPUTS | more | ({"outlier_score": score} if score else {})
    return {DEFAULT_SIGNATURE: DEFAULT, "scored": signature(inputs, outputs)}


def same_rows(x: TensorSpec) -> dict[str, Signature]:
    """With a score of the inputs' shape."""
    scored = signature({"x": x}, OUTPUTS | {"outlier_score": x})
    return {DEFAULT_SIGNATURE: signature({"x": x}, OUTPUTS), "scored": scored}


FLOATS = tensor("DT_FLOAT", -1)
OTHER_INPUTS = (
    "the inputs of 'scored' are {'x': ('DT_FLOAT', (-1, 2, 2))}; expected those of 'serving_default': {'pixels':"
)
OTHER_OUTPUTS = "the other outputs of 'scored' are {'probabilities': ('DT_FLOAT', (-1, 3))}; expected those of"
NO_FLOATS = "'outlier_score' is DT_FLOAT of the shape [-1, 1]; expected a float for each row of the inputs"


@pytest.mark.parametrize(
    ("signatures", "words"),
    [
        ({DEFAULT_SIGNATURE: DEFAULT}, "it takes the signature 'scored'; there is 'serving_default'"),
        (HELD, "it takes the signature 'serving_default'; there is 'scored'"),
        (scored_as(None), "'scored' has no output 'outlier_score'; it has 'probabilities'"),
        (scored_as(FLOATS, {"x": INPUTS["pixels"]}), OTHER_INPUTS),
        (
            scored_as(FLOATS, {"pixels": tensor("DT_UINT8", -1, 2, 2)}),
            "the inputs of 'scored' are {'pixels': ('DT_UINT",
        ),
        (scored_as(FLOATS, probabilities=tensor("DT_FLOAT", -1, 3)), OTHER_OUTPUTS),
        (scored_as(tensor("DT_FLOAT", -1, 1)), NO_FLOATS),
        (scored_as(tensor("DT_FLOAT", 1)), "'outlier_score' is DT_FLOAT of the shape [1]"),
        (scored_as(tensor("DT_INT32", -1)), "'outlier_score' is DT_INT32 of the shape [-1]"),
        (same_rows(tensor("DT_FLOAT")), "'outlier_score' is DT_FLOAT of the shape []"),
        (same_rows(any_shape("DT_FLOAT")), "'outlier_score' is DT_FLOAT of any shape"),
    ],
    ids=["no signature", "no default", "no output", "inputs", "types", "outputs", "column", "one", "whole", "", "any"],
)
def test_mismatch_is_rejected(signatures: dict[str, Signature], words: str) -> None:
    with pytest.raises(LoadError) as raised:
        ScoredEngine(FakeEngine(signatures, with_score), signatures, SCORE)
    assert str(raised.value).startswith(f"assets.extra/serving.json: outlier_score does not fit the model: {words}")


def test_default_signature_itself_is_rejected() -> None:
    score, signatures = replace(SCORE, signature=DEFAULT_SIGNATURE), {DEFAULT_SIGNATURE: SCORED}
    with pytest.raises(LoadError, match="the other outputs of 'serving_default' are"):
        ScoredEngine(FakeEngine(signatures, with_score), signatures, score)


def test_tensor_names_and_a_fixed_batch_do_not_matter() -> None:
    outputs = {"probabilities": tensor("DT_FLOAT", 4, 2)}
    scored = outputs | {"outlier_score": tensor("DT_DOUBLE", 4)}
    signatures = {
        DEFAULT_SIGNATURE: signature({"pixels": tensor("DT_FLOAT", 4, 2, 2)}, outputs),
        "scored": signature({"pixels": TensorSpec("scored_pixels:0", "DT_FLOAT", (4, 2, 2))}, scored),
    }
    assert ScoredEngine(FakeEngine(HELD, with_score), signatures, SCORE).signatures == signatures
