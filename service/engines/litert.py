"""The engine `litert`: runs a SavedModel's twin."""

from collections.abc import Mapping
from pathlib import Path

from ai_edge_litert.interpreter import Interpreter

from service.engines.interface import LoadError
from service.signature import Signature
from service.tensors import Array


class LiteRTEngine:
    name = "litert"

    def __init__(self, twin: Path, signatures: Mapping[str, Signature]) -> None:
        """`signatures` are the SavedModel's; the twin must have every one of them."""
        self.signatures = signatures
        self._model = twin.read_bytes()
        # An interpreter serves one thread at a time; a free one waits here. list.append and list.pop are atomic.
        self._idle = [self._interpreter()]
        twin_signatures = self._idle[0].get_signature_list()
        for name, signature in signatures.items():
            tensors = twin_signatures.get(name)
            if (
                tensors is None
                or set(tensors["inputs"]) != set(signature.inputs)
                or set(tensors["outputs"]) != set(signature.outputs)
            ):
                raise LoadError(f"the twin's signatures are not the SavedModel's: {name!r} is {tensors} in the twin")

    def run(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        try:
            interpreter = self._idle.pop()
        except IndexError:
            interpreter = self._interpreter()
        outputs: dict[str, Array] = interpreter.get_signature_runner(signature)(**inputs)
        # Only now: one that failed in between may be in any state.
        self._idle.append(interpreter)
        return outputs

    def _interpreter(self) -> Interpreter:
        try:
            # One thread: requests in parallel use the cores better than parts of one small model.
            return Interpreter(model_content=self._model, num_threads=1)
        except (ValueError, RuntimeError) as error:
            raise LoadError(f"LiteRT cannot read the twin: {error}") from None
