"""Dynamic batching for one version: requests that arrive while the model is busy are run together next, where their
rows are independent, and else one after the other.

There is no thread of its own and no waiting by default. The first request finds the model idle and runs at once; the
caller that waited longest then takes all that fit with its own into the next batch, runs it, and hands on. Nothing is
run that cannot end before its deadline while others wait that can, or may come.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import msgspec
import numpy as np

from service.inference.deadline import Deadline, Stage
from service.tensors.dtypes import Array
from service.tensors.signature import Signature

# Several requests' rows as one batch: which may be run together, and how each gets its own outputs back.

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


# Batching on the event loop: what came in one turn of it is run together, and nothing ever waits for more.


class TickBatcher:
    """For a version that is quick enough to be run by the event loop itself."""

    def __init__(
        self,
        run: Run,
        signatures: Mapping[str, Signature],
        independence: Independence,
        max_batch_size: int,
        observer: BatchObserver,
    ) -> None:
        self._run = run
        self._independence = independence
        self._rows_of = RowsOf(signatures, independence)
        self._max_batch_size = max_batch_size
        self._observer = observer

    def run(self, requests: Sequence[tuple[str, Arrays]]) -> list[Rows]:
        """`requests`: signature and inputs of each. What came of them, in the same order."""
        all_rows = [self._rows_of(signature, inputs) for signature, inputs in requests]
        batches: dict[object, list[Rows]] = {}
        for rows in all_rows:
            # What can only be run alone is of no kind but its own.
            batches.setdefault(id(rows) if rows.kind is None else rows.kind, []).append(rows)
        for of_one_kind in batches.values():
            for batch in self._fitting(of_one_kind):
                run_rows(self._run, batch, self._independence, self._observer)
        return all_rows

    def _fitting(self, of_one_kind: list[Rows]) -> list[list[Rows]]:
        """Batches of at most max_batch_size rows; a request is never split, however many rows it has."""
        batches: list[list[Rows]] = []
        total = 0
        for rows in of_one_kind:
            if not batches or total + rows.count > self._max_batch_size:
                batches.append([])
                total = 0
            batches[-1].append(rows)
            total += rows.count
        return batches


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Sizes in rows. `timeout_seconds`: how long the model may stay idle to wait for a fuller batch."""

    max_batch_size: int
    timeout_seconds: float


@dataclass(eq=False, slots=True)
class _Call:
    """One request's rows on their way."""

    rows: Rows
    deadline: Deadline
    arrived: float
    wake: threading.Event = field(default_factory=threading.Event)
    # To lead is to run the batch whose first call this one is, at the head of the queue.
    leads: bool = False
    is_done: bool = False


class Batcher:
    def __init__(
        self,
        run: Run,
        signatures: Mapping[str, Signature],
        independence: Independence,
        limits: BatchLimits,
        observer: BatchObserver,
        usual_run: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`usual_run`: what a run takes, in seconds, as far as is known."""
        self._run = run
        self._independence = independence
        self._rows_of = RowsOf(signatures, independence)
        self._usual_run = usual_run
        self._limits = limits
        self._observer = observer
        self._lock = threading.Lock()
        self._arrival = threading.Condition(self._lock)
        self._queue: deque[_Call] = deque()
        self._waiting_rows = 0
        self._is_busy = False

    def run(self, signature: str, inputs: Arrays, deadline: Deadline | None = None) -> Rows:
        """What came of these rows, and of no others. Blocks until it is there; safe from many threads.

        A bad request fails alone, not its batch.

        Raises:
            DeadlineExceeded: the deadline is over, or was before the rows were run: then they are not.
        """
        call = _Call(self._rows_of(signature, inputs), deadline or Deadline.unlimited(), time.perf_counter())
        call.deadline.stage = Stage.MODEL
        with self._lock:
            self._observer.queued(self._waiting_rows + call.rows.count)
            self._queue.append(call)
            self._waiting_rows += call.rows.count
            call.leads = not self._is_busy
            self._is_busy = True
            self._arrival.notify()
        while not call.is_done:
            if call.leads:
                self._lead(call)
            elif not self._wait(call):
                break
        if not call.is_done:
            call.deadline.check()
        return call.rows

    def _wait(self, call: _Call) -> bool:
        """Until it is done, or leads; False where nobody waits for it any more: then it has left the queue."""
        call.deadline.on_cancel(call.wake.set)
        call.wake.wait()
        with self._lock:
            call.wake.clear()
            if call.leads or call not in self._queue or not call.deadline.is_cancelled:
                # One that is being run is not waited for, either.
                return call.leads or call.is_done or not call.deadline.is_cancelled
            self._queue.remove(call)
            self._waiting_rows -= call.rows.count
            self._observer.queued(self._waiting_rows)
            self._arrival.notify()
        return False

    def _lead(self, leader: _Call) -> None:
        """Runs the next batch, wakes those it answers, and whoever leads next, which may be the same."""
        batch: list[_Call] = []
        leader.deadline.on_cancel(self._notify_leader)
        try:
            self._take(batch)
            run_rows(self._run, [call.rows for call in batch], self._independence, self._observer)
        except Exception as error:
            # A bug; whoever waits must hear of it.
            if not batch:
                with self._lock:
                    self._queue.remove(leader)
                    self._waiting_rows -= leader.rows.count
                batch = [leader]
            for call in batch:
                call.rows.outcome = error
        finally:
            with self._lock:
                leader.leads = False
                successor = self._queue[0] if self._queue else None
                self._is_busy = successor is not None
                if successor is not None:
                    successor.leads = True
            for call in batch:
                call.is_done = True
                call.wake.set()
            if successor is not None:
                successor.wake.set()
        self._observer.queued(self._waiting_rows)

    def _take(self, batch: list[_Call]) -> None:
        """Moves the next call from the queue into the batch, with those behind it that can be run with it; none where
        nobody waits for it any more."""
        with self._lock:
            if self._limits.timeout_seconds > 0:
                self._arrival.wait_for(self._is_full, self._limits.timeout_seconds)
            first = self._next()
            self._queue.remove(first)
            self._waiting_rows -= first.rows.count
            if first.deadline.is_cancelled:
                return
            batch.append(first)
            kind, total = first.rows.kind, first.rows.count
            others = []
            while self._queue and kind is not None and total < self._limits.max_batch_size:
                call = self._queue.popleft()
                if call.rows.kind != kind or call.deadline.is_cancelled:
                    others.append(call)
                elif total + call.rows.count > self._limits.max_batch_size:
                    others.append(call)
                    break
                else:
                    batch.append(call)
                    total += call.rows.count
            self._queue.extendleft(reversed(others))
            self._waiting_rows -= total - first.rows.count
        now = time.perf_counter()
        for call in batch:
            call.deadline.runs(now, total)
            self._observer.waited(now - call.arrived)

    def _next(self) -> _Call:
        """The first in the queue whose run can end before its deadline. Where several wait and none can, one that can
        may come while another would be run in vain: so long is waited for it. Then the one with the most time left is
        run all the same, for that tells how long it takes now."""
        usual = self._usual_run()
        waiting: list[_Call] = []
        found: _Call | None = None

        def is_found() -> bool:
            nonlocal waiting, found
            waiting = [call for call in self._queue if not call.deadline.is_cancelled]
            latest = time.perf_counter() + usual
            found = next((call for call in waiting if call.deadline.at > latest), None)
            # None that comes can, either, where the newest could not when it came.
            return found is not None or len(waiting) < 2 or waiting[-1].deadline.at < waiting[-1].arrived + usual

        self._arrival.wait_for(is_found, usual)
        return found or max(waiting, key=lambda call: call.deadline.at, default=self._queue[0])

    def _notify_leader(self) -> None:
        with self._lock:
            self._arrival.notify()

    def _is_full(self) -> bool:
        return self._waiting_rows >= self._limits.max_batch_size
