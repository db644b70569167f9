import pytest

from service.engines.base import LoadError
from service.engines.outlier import ScoredEngine
from service.serving_config import OutlierScore
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


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        (DEFAULT_SIGNATURE, {"probabilities": [[0, 1]]}),
        ("scored", {"probabilities": [[0, 1]], "outlier_score": [255]}),
    ],
)
def test_the_scored_signature_runs_for_both(name: str, outputs: dict[str, object]) -> None:
    held = FakeEngine(HELD, with_score)
    given = ScoredEngine(held, SIGNATURES, SCORE).run(name, pixels(255))
    assert {output: array.tolist() for output, array in given.items()} == outputs
    assert [ran for ran, _ in held.runs] == ["scored"]


FLOATS = tensor("DT_FLOAT", -1)


def scored_as(outputs: dict[str, TensorSpec], inputs: dict[str, TensorSpec] = INPUTS) -> dict[str, Signature]:
    return {DEFAULT_SIGNATURE: DEFAULT, "scored": signature(inputs, OUTPUTS | outputs)}


def same_rows(x: TensorSpec) -> dict[str, Signature]:
    """With a score of the inputs' shape."""
    scored = signature({"x": x}, OUTPUTS | {"outlier_score": x})
    return {DEFAULT_SIGNATURE: signature({"x": x}, OUTPUTS), "scored": scored}


BROKEN: dict[str, tuple[dict[str, Signature], str]] = {
    "no such signature": (
        {DEFAULT_SIGNATURE: DEFAULT},
        "it takes the signature 'scored'; there is 'serving_default'",
    ),
    "no default signature": (HELD, "it takes the signature 'serving_default'; there is 'scored'"),
    "no such output": (scored_as({}), "'scored' has no output 'outlier_score'; it has 'probabilities'"),
    "other inputs": (
        scored_as({"outlier_score": FLOATS}, {"x": INPUTS["pixels"]}),
        "the inputs of 'scored' are {'x': ('DT_FLOAT', (-1, 2, 2))}; expected those of 'serving_default': {'pixels':",
    ),
    "inputs of another type": (
        scored_as({"outlier_score": FLOATS}, {"pixels": tensor("DT_UINT8", -1, 2, 2)}),
        "the inputs of 'scored' are {'pixels': ('DT_UINT8',",
    ),
    "outputs of another shape": (
        scored_as({"outlier_score": FLOATS, "probabilities": tensor("DT_FLOAT", -1, 3)}),
        "the other outputs of 'scored' are {'probabilities': ('DT_FLOAT', (-1, 3))}; expected those of",
    ),
    "a column": (
        scored_as({"outlier_score": tensor("DT_FLOAT", -1, 1)}),
        "'outlier_score' is DT_FLOAT of the shape [-1, 1]; expected a float for each row of the inputs",
    ),
    "one for all rows": (
        scored_as({"outlier_score": tensor("DT_FLOAT", 1)}),
        "'outlier_score' is DT_FLOAT of the shape [1]",
    ),
    "whole numbers": (
        scored_as({"outlier_score": tensor("DT_INT32", -1)}),
        "'outlier_score' is DT_INT32 of the shape [-1]",
    ),
    "a scalar": (same_rows(tensor("DT_FLOAT")), "'outlier_score' is DT_FLOAT of the shape []"),
    "of any shape": (same_rows(any_shape("DT_FLOAT")), "'outlier_score' is DT_FLOAT of any shape"),
}


def load_error(signatures: dict[str, Signature], score: OutlierScore = SCORE) -> str:
    with pytest.raises(LoadError) as raised:
        ScoredEngine(FakeEngine(signatures, with_score), signatures, score)
    return str(raised.value)


@pytest.mark.parametrize("name", BROKEN)
def test_a_mismatch_is_rejected(name: str) -> None:
    signatures, words = BROKEN[name]
    told = f"assets.extra/serving.json: outlier_score does not fit the model: {words}"
    assert load_error(signatures).startswith(told)


def test_the_default_signature_itself_is_rejected() -> None:
    score = OutlierScore(signature=DEFAULT_SIGNATURE, output="outlier_score", threshold=1.0)
    told = "the other outputs of 'serving_default' are"
    assert told in load_error({DEFAULT_SIGNATURE: SCORED}, score)


def test_tensor_names_and_a_fixed_batch_do_not_matter() -> None:
    outputs = {"probabilities": tensor("DT_FLOAT", 4, 2)}
    scored = outputs | {"outlier_score": tensor("DT_DOUBLE", 4)}
    signatures = {
        DEFAULT_SIGNATURE: signature({"pixels": tensor("DT_FLOAT", 4, 2, 2)}, outputs),
        "scored": signature({"pixels": TensorSpec("scored_pixels:0", "DT_FLOAT", (4, 2, 2))}, scored),
    }
    assert ScoredEngine(FakeEngine(HELD, with_score), signatures, SCORE).signatures == signatures
