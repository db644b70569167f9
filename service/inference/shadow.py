"""Shadows: versions that get copies of requests to another, so that their responses can be compared."""

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from random import random
from typing import Protocol

import numpy as np

from service.inference.version import LoadedVersion, Shadow
from service.tensors.dtypes import DTYPES, Array, size_of

# Copies that wait for the thread that runs them, and their bytes. Further ones are dropped.
MAX_WAITING = 64
MAX_WAITING_BYTES = 64 * 1024 * 1024
# How far numbers may differ and still agree: what other kernels, and other orders of summing, make of float32.
RELATIVE, ABSOLUTE = 1e-3, 1e-5

logger = logging.getLogger(__name__)

Arrays = Mapping[str, Array]
Infer = Callable[[LoadedVersion, str, Arrays], Arrays]
Copy = tuple[LoadedVersion, LoadedVersion, str, Arrays, Arrays]


class ShadowObserver(Protocol):
    """What copies report."""

    def compared(self, shadow: LoadedVersion, agrees: bool) -> None: ...

    def failed(self, shadow: LoadedVersion) -> None: ...

    def dropped(self, shadow: LoadedVersion) -> None: ...


class Mirror:
    """Runs copies of requests in a thread of its own: no response waits for them, and none fails with them."""

    def __init__(
        self,
        infer: Infer,
        observer: ShadowObserver,
        draw: Callable[[], float] = random,
        max_waiting: int = MAX_WAITING,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        """`draw`: gives a number in [0, 1) for each request that a shadow may get."""
        self._infer = infer
        self._observer = observer
        self._draw = draw
        self._waiting: queue.Queue[tuple[Copy, int]] = queue.Queue(max_waiting)
        self._max_waiting_bytes = max_waiting_bytes
        # Of those that wait and the one that is run.
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._is_started = False

    def offer(self, shadow: Shadow, answered: LoadedVersion, signature: str, inputs: Arrays, outputs: Arrays) -> None:
        """Take a copy of a request that `answered` responded to. Never blocks."""
        if self._draw() >= shadow.share:
            return
        size = size_of(inputs) + size_of(outputs)
        with self._lock:
            is_taken = self._waiting_bytes + size <= self._max_waiting_bytes
            try:
                if is_taken:
                    self._waiting.put_nowait(((shadow.loaded, answered, signature, inputs, outputs), size))
                    self._waiting_bytes += size
            except queue.Full:
                is_taken = False
        if not is_taken:
            self._observer.dropped(shadow.loaded)
            return
        if not self._is_started:
            self._start()

    def wait(self) -> None:
        """Wait until all copies have run."""
        self._waiting.join()

    def _start(self) -> None:
        with self._lock:
            if not self._is_started:
                self._is_started = True
                threading.Thread(target=self._run, name="shadow", daemon=True).start()

    def _run(self) -> None:
        while True:
            copy, size = self._waiting.get()
            self._compare(*copy)
            # So that a version that is unloaded meanwhile can go before the next copy comes.
            del copy
            with self._lock:
                self._waiting_bytes -= size
            self._waiting.task_done()

    def _compare(
        self, shadow: LoadedVersion, answered: LoadedVersion, signature: str, inputs: Arrays, outputs: Arrays
    ) -> None:
        try:
            check_types(shadow, signature, inputs)
            self._observer.compared(
                shadow, agree(answered, outputs, shadow, self._infer(shadow, signature, inputs), signature)
            )
        # The shadow fails, or does not take this request. No client learns of it.
        except Exception as error:
            logger.debug("%s version %d as a shadow failed: %s", shadow.model, shadow.version, error)
            self._observer.failed(shadow)


def agree(one: LoadedVersion, of_one: Arrays, other: LoadedVersion, of_other: Arrays, signature: str) -> bool:
    """Whether the same label comes first in every row, where both have labels; else whether all outputs are close."""
    labels, other_labels = first_labels(one, of_one, signature), first_labels(other, of_other, signature)
    if labels is not None and other_labels is not None:
        return labels == other_labels
    return all_close(of_one, of_other)


def first_labels(loaded: LoadedVersion, outputs: Arrays, signature: str) -> list[str] | None:
    """The first label of each row; None where the version has no labels."""
    scores = loaded.label_scores(signature, outputs)
    return None if scores is None else [loaded.config.labels[index] for index in scores.argmax(axis=-1)]


def all_close(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(_close(array, other[name]) for name, array in one.items())


def _close(one: Array, other: Array) -> bool:
    if one.shape != other.shape:
        return False
    if "O" in (one.dtype.kind, other.dtype.kind):
        return bool(np.array_equal(one, other))
    return bool(np.allclose(one, other, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True))


def check_types(loaded: LoadedVersion, signature: str, inputs: Arrays) -> None:
    """Check inputs that were decoded for another version: an engine takes only its own types. Raises TypeError."""
    for name, spec in loaded.signature(signature).inputs.items():
        if name in inputs and inputs[name].dtype != DTYPES.get(spec.dtype):
            raise TypeError(f"input {name!r} is {inputs[name].dtype}, expected {spec.dtype}")
