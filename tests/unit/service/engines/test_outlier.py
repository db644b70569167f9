import pytest

from service.engines.base import LoadError
from service.engines.outlier import ScoredEngine
from service.errors import InvalidRequest
from service.serving_config import OutlierScore
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from tests.unit.service.fakes import Arrays, FakeEngine, any_shape, signature, tensor
from tests.unit.service.scored import INPUTS, OUTPUTS, SCORE, SIGNATURES, pixels, with_score

HELD = {"scored": SIGNATURES["scored"]}


def engine() -> tuple[FakeEngine, ScoredEngine]:
    held = FakeEngine(HELD, with_score)
    return held, ScoredEngine(held, SIGNATURES, SCORE)


@pytest.mark.parametrize("runs_on_caller", [True, False])
def test_it_has_the_signatures_of_the_saved_model(runs_on_caller: bool) -> None:
    held = FakeEngine(HELD, with_score, runs_on_caller=runs_on_caller)
    scored = ScoredEngine(held, SIGNATURES, SCORE)
    assert scored.signatures == SIGNATURES
    assert (scored.name, scored.runs_on_caller) == (held.name, runs_on_caller)
    scored.release()
    assert held.releases == 1


def test_the_scored_signature_runs_for_the_default_one() -> None:
    held, scored = engine()
    assert list(scored.run(DEFAULT_SIGNATURE, pixels(0))) == ["probabilities"]
    assert [name for name, _ in held.runs] == ["scored"]


def test_the_scored_signature_keeps_its_outputs() -> None:
    _, scored = engine()
    assert {name: array.tolist() for name, array in scored.run("scored", pixels(255)).items()} == {
        "outlier_score": [255],
        "probabilities": [[0, 1]],
    }


def test_errors_of_the_engine_pass_through() -> None:
    def refuse(_inputs: Arrays) -> dict[str, Array]:
        raise InvalidRequest("the model refuses this input")

    with pytest.raises(InvalidRequest, match="the model refuses this input"):
        ScoredEngine(FakeEngine(HELD, refuse), SIGNATURES, SCORE).run(DEFAULT_SIGNATURE, pixels(0))


def scored_as(outputs: dict[str, TensorSpec], inputs: dict[str, TensorSpec] = INPUTS) -> dict[str, Signature]:
    return {**SIGNATURES, "scored": signature(inputs, outputs)}


def both(inputs: dict[str, TensorSpec], score: TensorSpec) -> dict[str, Signature]:
    scored = signature(inputs, OUTPUTS | {"outlier_score": score})
    return {DEFAULT_SIGNATURE: signature(inputs, OUTPUTS), "scored": scored}


FLOATS = tensor("DT_FLOAT", -1)
BROKEN: dict[str, tuple[dict[str, Signature], OutlierScore, str]] = {
    "no such signature": (
        {DEFAULT_SIGNATURE: SIGNATURES[DEFAULT_SIGNATURE]},
        SCORE,
        "it takes the signature 'scored'; there is 'serving_default'",
    ),
    "no default signature": (HELD, SCORE, "it takes the signature 'serving_default'; there is 'scored'"),
    "no such output": (
        dict(SIGNATURES),
        OutlierScore(signature="scored", output="score", threshold=1.0),
        "'scored' has no output 'score'; it has 'outlier_score', 'probabilities'",
    ),
    "the default signature itself": (
        {DEFAULT_SIGNATURE: SIGNATURES["scored"]},
        OutlierScore(signature=DEFAULT_SIGNATURE, output="outlier_score", threshold=1.0),
        "the other outputs of 'serving_default' are",
    ),
    "other inputs": (
        scored_as(OUTPUTS | {"outlier_score": FLOATS}, {"x": INPUTS["pixels"]}),
        SCORE,
        "the inputs of 'scored' are {'x': ('DT_FLOAT', (-1, 2, 2))}; expected those of 'serving_default': {'pixels':",
    ),
    "inputs of another type": (
        scored_as(OUTPUTS | {"outlier_score": FLOATS}, {"pixels": tensor("DT_UINT8", -1, 2, 2)}),
        SCORE,
        "the inputs of 'scored' are {'pixels': ('DT_UINT8',",
    ),
    "outputs of another shape": (
        scored_as({"probabilities": tensor("DT_FLOAT", -1, 3), "outlier_score": FLOATS}),
        SCORE,
        "the other outputs of 'scored' are {'probabilities': ('DT_FLOAT', (-1, 3))}; expected those of",
    ),
    "one output more": (
        scored_as(OUTPUTS | {"outlier_score": FLOATS, "features": FLOATS}),
        SCORE,
        "the other outputs of 'scored' are",
    ),
    "a column": (
        scored_as(OUTPUTS | {"outlier_score": tensor("DT_FLOAT", -1, 1)}),
        SCORE,
        "'outlier_score' is DT_FLOAT of the shape [-1, 1]; expected a float for each row of the inputs",
    ),
    "one for all rows": (
        scored_as(OUTPUTS | {"outlier_score": tensor("DT_FLOAT", 1)}),
        SCORE,
        "'outlier_score' is DT_FLOAT of the shape [1]; expected",
    ),
    "a scalar": (
        both({"pixels": tensor("DT_FLOAT")}, tensor("DT_FLOAT")),
        SCORE,
        "'outlier_score' is DT_FLOAT of the shape []; expected",
    ),
    "of any shape": (
        both({"pixels": any_shape("DT_FLOAT")}, any_shape("DT_FLOAT")),
        SCORE,
        "'outlier_score' is DT_FLOAT of any shape; expected",
    ),
    "whole numbers": (
        scored_as(OUTPUTS | {"outlier_score": tensor("DT_INT32", -1)}),
        SCORE,
        "'outlier_score' is DT_INT32 of the shape [-1]; expected a float for each row of the inputs",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_mismatch_is_rejected(name: str) -> None:
    signatures, score, words = BROKEN[name]
    with pytest.raises(LoadError) as raised:
        ScoredEngine(FakeEngine(signatures, with_score), signatures, score)
    message = str(raised.value)
    assert message.startswith("assets.extra/serving.json: outlier_score does not fit the model: ")
    assert words in message


def test_tensor_names_and_a_fixed_batch_do_not_matter() -> None:
    inputs = {"pixels": TensorSpec("scored_pixels:0", "DT_FLOAT", (4, 2, 2))}
    outputs = {"probabilities": tensor("DT_FLOAT", 4, 2)}
    signatures = {
        DEFAULT_SIGNATURE: signature({"pixels": tensor("DT_FLOAT", 4, 2, 2)}, outputs),
        "scored": signature(inputs, outputs | {"outlier_score": tensor("DT_DOUBLE", 4)}),
    }
    assert ScoredEngine(FakeEngine(HELD, with_score), signatures, SCORE).signatures == signatures
