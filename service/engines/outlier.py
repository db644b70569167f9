"""An engine that runs the signature with the outlier score in place of the default one."""

from collections.abc import Mapping

from service.engines.base import Engine, LoadError
from service.serving_config import OutlierScore
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE, Signature, TensorSpec

_FLOATS = ("DT_FLOAT", "DT_DOUBLE", "DT_HALF")

Kind = tuple[str, tuple[int, ...] | None]


class ScoredEngine:
    """Runs one signature for both: a twin needs only that one, and requests for either share a batch."""

    def __init__(self, engine: Engine, signatures: Mapping[str, Signature], score: OutlierScore) -> None:
        """`signatures` are the SavedModel's; `engine` may lack the default one.

        Raises:
            LoadError: the two signatures differ in more than the score, or the score is not a float for each row.
        """
        _check(signatures, score)
        self.name = engine.name
        self.runs_on_caller = engine.runs_on_caller
        self.signatures = signatures
        self._engine = engine
        self._score = score
        self._outputs = tuple(signatures[DEFAULT_SIGNATURE].outputs)

    def run(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if signature != DEFAULT_SIGNATURE:
            return self._engine.run(signature, inputs)
        outputs = self._engine.run(self._score.signature, inputs)
        return {name: outputs[name] for name in self._outputs}

    def release(self) -> None:
        self._engine.release()


def _check(signatures: Mapping[str, Signature], score: OutlierScore) -> None:
    for name in (DEFAULT_SIGNATURE, score.signature):
        if name not in signatures:
            raise _mismatch(f"it takes the signature {name!r}; there is {_names(signatures)}")
    default, scored = signatures[DEFAULT_SIGNATURE], signatures[score.signature]
    spec = scored.outputs.get(score.output)
    if spec is None:
        raise _mismatch(f"{score.signature!r} has no output {score.output!r}; it has {_names(scored.outputs)}")
    others = {name: output for name, output in scored.outputs.items() if name != score.output}
    pairs = {"inputs": (default.inputs, scored.inputs), "other outputs": (default.outputs, others)}
    for what, (expected, found) in pairs.items():
        if _kinds(expected) != _kinds(found):
            raise _mismatch(
                f"the {what} of {score.signature!r} are {_kinds(found)}; "
                f"expected those of {DEFAULT_SIGNATURE!r}: {_kinds(expected)}"
            )
    rows = {tensor.shape and tensor.shape[:1] for tensor in scored.inputs.values()}
    if spec.dtype not in _FLOATS or not spec.shape or rows != {spec.shape}:
        raise _mismatch(f"{score.output!r} is {spec.dtype} {_shape(spec)}; expected a float for each row of the inputs")


def _mismatch(reason: str) -> LoadError:
    return LoadError(f"assets.extra/serving.json: outlier_score does not fit the model: {reason}")


def _kinds(tensors: Mapping[str, TensorSpec]) -> dict[str, Kind]:
    """Types and shapes; the tensors' names in the graph do not matter."""
    return {name: (spec.dtype, spec.shape) for name, spec in tensors.items()}


def _shape(spec: TensorSpec) -> str:
    return "of any shape" if spec.shape is None else f"of the shape {list(spec.shape)}"


def _names(named: Mapping[str, object]) -> str:
    return ", ".join(map(repr, sorted(named)))
