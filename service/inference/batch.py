"""Several requests' rows as one batch: which may be run together, and how each gets its own outputs back."""

from collections.abc import Callable, Collection, Mapping, Sequence
from time import perf_counter
from typing import Any

import msgspec
import numpy as np

from service.tensors.json import Array
from service.tensors.signature import Signature

Arrays = Mapping[str, Array]
Run = Callable[[str, Arrays], dict[str, Array]]
Outcome = dict[str, Array] | Exception


class BatchObserver:
    """Told what happens; does nothing with it."""

    def ran(self, rows: int) -> None: ...

    def waited(self, seconds: float) -> None: ...

    def queued(self, rows: int) -> None: ...

    def contradicted(self) -> None: ...


class Rows(msgspec.Struct, eq=False):
    """One request's rows, and once they were run what came of it. `kind` is equal for those that can be
    run together; None: only alone. `batch_size`: rows of the run that it was part of, which began at `run_began`, in
    perf_counter's seconds."""

    signature: str
    inputs: Arrays
    count: int
    kind: Any
    outcome: Outcome = RuntimeError("not run")
    run_began: float = 0.0
    run_seconds: float = 0.0
    batch_size: int = 0

    def outputs(self) -> dict[str, Array]:
        """Raises what came instead."""
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def note_run(self, began: float, seconds: float, batch_size: int) -> None:
        self.run_began, self.run_seconds, self.batch_size = began, seconds, batch_size


class Independence:
    """Which of a version's signatures have independent rows: each is answered alike alone, among any others, and in any
    order. A free first size does not promise that, so nothing is run together or apart that is not said to be so.

    `signatures` gets smaller where outputs contradict what was said.
    """

    def __init__(
        self, signatures: Collection[str] = (), on_contradiction: Callable[[str], None] = lambda _signature: None
    ) -> None:
        """`on_contradiction` is told, once for each, of a signature whose outputs do not have a row for each row of its
        inputs."""
        self.signatures = frozenset(signatures)
        self._on_contradiction = on_contradiction
        self._contradicted: set[str] = set()

    def say(self, signatures: Collection[str]) -> None:
        """These have independent rows, but for those whose outputs have contradicted."""
        self.signatures = frozenset(signatures) - self._contradicted

    def contradict(self, signature: str) -> None:
        if signature in self.signatures:
            self._contradicted.add(signature)
            self.signatures -= {signature}
            self._on_contradiction(signature)


class RowsOf:
    """Requests as rows, for one version's signatures."""

    def __init__(self, signatures: Mapping[str, Signature], independence: Independence) -> None:
        self._independence = independence
        # Where the batch alone is free, every request for the signature has rows of one shape.
        self._uniform = {name for name, signature in signatures.items() if _is_uniform(signature)}

    def __call__(self, signature: str, inputs: Arrays) -> Rows:
        """`inputs` fit the signature."""
        count = row_count(inputs)
        if signature not in self._independence.signatures or count is None:
            return Rows(signature, inputs, count or 1, None)
        kind: Any = signature
        if signature not in self._uniform:
            kind = (signature, tuple((name, array.shape[1:]) for name, array in sorted(inputs.items())))
        return Rows(signature, inputs, count, kind)


def row_count(inputs: Arrays) -> int | None:
    """The first size that all inputs have in common; None where there is none."""
    sizes = {array.shape[0] if array.ndim else None for array in inputs.values()}
    return sizes.pop() if len(sizes) == 1 else None


def run_rows(run: Run, batch: Sequence[Rows], independence: Independence, observer: BatchObserver) -> None:
    """Runs rows of one kind together. A bad request fails alone: where the run fails, each is run by itself."""
    if len(batch) > 1 and _run_together(run, batch, independence, observer):
        return
    for rows in batch:
        began = perf_counter()
        try:
            rows.outcome = run(rows.signature, rows.inputs)
            observer.ran(rows.count)
        except Exception as error:
            rows.outcome = error
        rows.note_run(began, perf_counter() - began, rows.count)


def _run_together(run: Run, batch: Sequence[Rows], independence: Independence, observer: BatchObserver) -> bool:
    """False where it did not work out, and each is to be run alone."""
    total = sum(rows.count for rows in batch)
    began = perf_counter()
    try:
        inputs = {name: np.concatenate([rows.inputs[name] for rows in batch]) for name in batch[0].inputs}
        outputs = run(batch[0].signature, inputs)
    # One bad row spoils the run for all: each alone, the bad one fails and the others do not.
    except Exception:
        return False
    if not has_rows(outputs, total):
        independence.contradict(batch[0].signature)
        return False
    seconds = perf_counter() - began
    observer.ran(total)
    start = 0
    for rows in batch:
        rows.outcome = {name: array[start : start + rows.count] for name, array in outputs.items()}
        rows.note_run(began, seconds, total)
        start += rows.count
    return True


def has_rows(outputs: Arrays, count: int) -> bool:
    """Whether every output has so many rows."""
    return all(array.ndim and len(array) == count for array in outputs.values())


def is_batchable(signature: Signature) -> bool:
    """Every tensor has a row for each of the request's, as far as the signature says."""
    specs = [*signature.inputs.values(), *signature.outputs.values()]
    return bool(signature.inputs) and all(spec.shape is not None and spec.shape[:1] == (-1,) for spec in specs)


def _is_uniform(signature: Signature) -> bool:
    return all(
        spec.is_held and spec.shape is not None and -1 not in spec.shape[1:] for spec in signature.inputs.values()
    )
