"""Dynamic batching for one version: requests that arrive while the model is busy are run together next.

There is no thread of its own and no waiting by default. The first request finds the model idle and runs at once; the
caller that waited longest then takes all that fit with its own into the next batch, runs it, and hands on.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from service.signature import Signature
from service.tensors import Array

Arrays = Mapping[str, Array]
Run = Callable[[str, Arrays], dict[str, Array]]


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Sizes in rows. `timeout_seconds`: how long the model may stay idle to wait for a fuller batch."""

    max_batch_size: int
    timeout_seconds: float


class BatchObserver:
    """Told what happens; does nothing with it."""

    def ran(self, rows: int) -> None: ...

    def waited(self, seconds: float) -> None: ...

    def queued(self, rows: int) -> None: ...


@dataclass(eq=False, slots=True)
class _Call:
    """One request's rows on their way. `kind` is equal for calls whose rows can be run together."""

    signature: str
    inputs: Arrays
    rows: int
    kind: Any
    arrived: float = field(default_factory=time.perf_counter)
    wake: threading.Event = field(default_factory=threading.Event)
    outputs: dict[str, Array] | None = None
    error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        return self.outputs is not None or self.error is not None


class Batcher:
    def __init__(
        self, run: Run, signatures: Mapping[str, Signature], limits: BatchLimits, observer: BatchObserver
    ) -> None:
        self._run = run
        self._batchable = {name for name, signature in signatures.items() if _is_batchable(signature)}
        self._limits = limits
        self._observer = observer
        self._lock = threading.Lock()
        self._arrival = threading.Condition(self._lock)
        self._queue: deque[_Call] = deque()
        self._is_busy = False

    def run(self, signature: str, inputs: Arrays) -> dict[str, Array]:
        """The outputs for these rows, and for no others. Blocks until they are there; safe from many threads.

        Raises what the engine raises for these rows; a bad request fails alone, not its batch.
        """
        call = self._call(signature, inputs)
        with self._lock:
            self._queue.append(call)
            leads = not self._is_busy
            self._is_busy = True
            self._arrival.notify()
            self._observer.queued(self._waiting_rows())
        if not leads:
            call.wake.wait()
        if not call.is_done:
            self._lead()
        if call.error is not None:
            raise call.error
        assert call.outputs is not None  # noqa: S101  # to lead is to run the call at the head of the queue: one's own
        return call.outputs

    def _lead(self) -> None:
        """Runs the next batch, wakes those it answers, and whoever leads next."""
        batch = self._take()
        try:
            self._run_batch(batch)
        finally:
            with self._lock:
                successor = self._queue[0] if self._queue else None
                self._is_busy = successor is not None
                self._observer.queued(self._waiting_rows())
            for call in batch:
                call.wake.set()
            if successor is not None:
                successor.wake.set()

    def _take(self) -> list[_Call]:
        """The call at the head of the queue, and those behind it that can be run with it."""
        with self._lock:
            if self._limits.timeout_seconds > 0:
                self._arrival.wait_for(self._is_full, self._limits.timeout_seconds)
            batch = [self._queue.popleft()]
            rows = batch[0].rows
            for call in list(self._queue):
                if batch[0].kind is not None and call.kind == batch[0].kind:
                    if rows + call.rows > self._limits.max_batch_size:
                        break
                    self._queue.remove(call)
                    batch.append(call)
                    rows += call.rows
        now = time.perf_counter()
        for call in batch:
            self._observer.waited(now - call.arrived)
        return batch

    def _waiting_rows(self) -> int:
        return sum(call.rows for call in self._queue)

    def _is_full(self) -> bool:
        return self._waiting_rows() >= self._limits.max_batch_size

    def _run_batch(self, batch: list[_Call]) -> None:
        if len(batch) > 1 and self._run_together(batch):
            return
        for call in batch:
            try:
                call.outputs = self._run(call.signature, call.inputs)
                self._observer.ran(call.rows)
            except BaseException as error:
                call.error = error

    def _run_together(self, batch: list[_Call]) -> bool:
        """False where it did not work out, and each is to be run alone."""
        total = sum(call.rows for call in batch)
        try:
            names = batch[0].inputs
            inputs = {name: np.concatenate([call.inputs[name] for call in batch]) for name in names}
            outputs = self._run(batch[0].signature, inputs)
        # One bad row spoils the run for all: each alone, the bad one fails and the others do not.
        except Exception:
            return False
        if any(not array.ndim or len(array) != total for array in outputs.values()):
            return False
        self._observer.ran(total)
        start = 0
        for call in batch:
            call.outputs = {name: array[start : start + call.rows] for name, array in outputs.items()}
            start += call.rows
        return True

    def _call(self, signature: str, inputs: Arrays) -> _Call:
        sizes = {array.shape[0] if array.ndim else None for array in inputs.values()}
        if signature not in self._batchable or len(sizes) != 1 or None in sizes:
            return _Call(signature, inputs, 1, None)
        kind = (signature, tuple((name, array.shape[1:]) for name, array in sorted(inputs.items())))
        return _Call(signature, inputs, sizes.pop() or 0, kind)


def _is_batchable(signature: Signature) -> bool:
    """Every tensor has a row for each of the request's, as far as the signature says."""
    specs = [*signature.inputs.values(), *signature.outputs.values()]
    return bool(signature.inputs) and all(spec.shape is not None and spec.shape[:1] == (-1,) for spec in specs)
