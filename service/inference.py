"""infer(): the only road to a model, whatever the protocol; checks, times, counts."""

from collections.abc import Mapping, Sequence
from time import perf_counter

from service.batch import Arrays, Outcome, row_count
from service.calls import Call
from service.errors import InvalidRequest
from service.messages import Answer
from service.metrics import Metrics, ShadowMetrics
from service.prediction import Prediction
from service.registry import LoadedVersion, Registry
from service.shadow import Mirror
from service.signature import Signature
from service.tensors import Array, check_shape
from service.turn_batcher import TurnBatcher


class Inference:
    def __init__(self, registry: Registry, metrics: Metrics) -> None:
        self.registry = registry
        self._metrics = metrics
        self.mirror = Mirror(self.infer, ShadowMetrics(metrics))

    def answer(self, prediction: Prediction, call: Call) -> Answer:
        """Raises ServingError."""
        outputs = self.infer(prediction.loaded, prediction.signature_name, prediction.inputs)
        call.inferred()
        return prediction.encode(outputs)

    def infer(self, loaded: LoadedVersion, signature_name: str, inputs: Arrays) -> dict[str, Array]:
        """Every output of the signature, by name.

        Raises:
            InvalidRequest: an input is missing, unknown or of a wrong shape, or the model refuses its values.
        """
        check_inputs(loaded.signature(signature_name), inputs)
        started = perf_counter()
        if loaded.batcher is None:
            outputs = loaded.engine.run(signature_name, inputs)
            self._metrics.of_batch(loaded.model, loaded.version).observe(row_count(inputs) or 1)
        else:
            outputs = loaded.batcher.run(signature_name, inputs)
        self._observe(loaded, signature_name, inputs, outputs, perf_counter() - started)
        return outputs

    def infer_together(self, predictions: Sequence[Prediction]) -> list[Outcome]:
        """For each its outputs, or what `infer` raises. Those of a version that gains by it are run as batches."""
        outcomes: list[Outcome] = []
        batches: dict[TurnBatcher, list[int]] = {}
        for place, prediction in enumerate(predictions):
            loaded, name, inputs = prediction.loaded, prediction.signature_name, prediction.inputs
            try:
                if loaded.turn_batcher is None:
                    outcomes.append(self.infer(loaded, name, inputs))
                else:
                    check_inputs(loaded.signature(name), inputs)
                    outcomes.append({})
                    batches.setdefault(loaded.turn_batcher, []).append(place)
            except Exception as error:
                outcomes.append(error)
        for batcher, places in batches.items():
            started = perf_counter()
            ran = batcher.run([(predictions[place].signature_name, predictions[place].inputs) for place in places])
            seconds = perf_counter() - started
            for place, outcome in zip(places, ran, strict=True):
                outcomes[place] = outcome
                if not isinstance(outcome, Exception):
                    prediction = predictions[place]
                    self._observe(prediction.loaded, prediction.signature_name, prediction.inputs, outcome, seconds)
        return outcomes

    def _observe(
        self, loaded: LoadedVersion, signature_name: str, inputs: Arrays, outputs: Arrays, seconds: float
    ) -> None:
        self._metrics.of_inference(loaded.model, loaded.version, loaded.engine.name).observe(seconds)
        if output := loaded.label_output(signature_name):
            self._metrics.of_predictions(loaded.model, loaded.version).record(loaded.config.labels, outputs[output])
        if loaded.shadow is not None:
            self.mirror.offer(loaded.shadow, loaded, signature_name, inputs, outputs)


def check_inputs(signature: Signature, inputs: Arrays) -> None:
    """Raises InvalidRequest where one is missing, unknown or of a shape that the signature does not take."""
    if inputs.keys() != signature.inputs.keys():
        if unknown := sorted(inputs.keys() - signature.inputs.keys()):
            raise InvalidRequest(f"unknown input {_names(unknown)}; expected {_names(signature.inputs)}")
        missing = sorted(signature.inputs.keys() - inputs.keys())
        raise InvalidRequest(f"missing input {_names(missing)}; expected {_names(signature.inputs)}")
    for name, array in inputs.items():
        check_shape(name, array, signature.inputs[name])


def _names(names: Mapping[str, object] | list[str]) -> str:
    return ", ".join(map(repr, names))
