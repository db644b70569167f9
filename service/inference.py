"""infer(): the only road to a model, whatever the protocol; checks, times, counts."""

from collections.abc import Mapping
from math import isfinite
from time import perf_counter

from service.errors import InvalidRequest
from service.metrics import Metrics
from service.registry import LoadedVersion, Registry
from service.signature import Signature
from service.tensors import Array, check_shape


class Inference:
    def __init__(self, registry: Registry, metrics: Metrics) -> None:
        self.registry = registry
        self._metrics = metrics

    def infer(self, loaded: LoadedVersion, signature_name: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Every output of the signature, by name.

        Raises:
            InvalidRequest: an input is missing, unknown or of a wrong shape, or the model refuses its values.
        """
        signature = loaded.signature(signature_name)
        _check_inputs(signature, inputs)
        runner = loaded.engine if loaded.batcher is None else loaded.batcher
        started = perf_counter()
        outputs = runner.run(signature_name, inputs)
        seconds = perf_counter() - started
        self._metrics.of_inference(loaded.model, loaded.version, loaded.engine.name).observe(seconds)
        if output := loaded.label_output(signature_name):
            self._count_labels(loaded, outputs[output])
        return outputs

    def _count_labels(self, loaded: LoadedVersion, scores: Array) -> None:
        # Not argmax and max: for the few labels that models have, a list is quicker.
        for row in scores.tolist():
            confidence = max(row)
            if isfinite(confidence):  # one NaN would make the sum of all confidences NaN for ever
                predictions, confidences = self._metrics.of_prediction(
                    loaded.model, loaded.version, loaded.config.labels[row.index(confidence)]
                )
                predictions.inc()
                confidences.observe(confidence)


def _check_inputs(signature: Signature, inputs: Mapping[str, Array]) -> None:
    if inputs.keys() != signature.inputs.keys():
        if unknown := sorted(inputs.keys() - signature.inputs.keys()):
            raise InvalidRequest(f"unknown input {_names(unknown)}; expected {_names(signature.inputs)}")
        missing = sorted(signature.inputs.keys() - inputs.keys())
        raise InvalidRequest(f"missing input {_names(missing)}; expected {_names(signature.inputs)}")
    for name, array in inputs.items():
        check_shape(name, array, signature.inputs[name])


def _names(names: Mapping[str, object] | list[str]) -> str:
    return ", ".join(map(repr, names))
