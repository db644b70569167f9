"""Dynamic batching: the rows of several requests for one version, run together where its rows are independent.

`run_rows` runs a batch and hands every request its own outputs. Two drivers form the batches: `TickBatcher` of the
requests that came in one tick of the event loop, `Batcher` of those that threads hold while the version is busy.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

import msgspec
import numpy as np

from service.inference.deadline import Deadline, Stage
from service.tensors.dtypes import Array
from service.tensors.signature import Signature

Arrays = Mapping[str, Array]
Run = Callable[[str, Arrays], dict[str, Array]]
Outcome = dict[str, Array] | Exception


class BatchObserver(Protocol):
    """What batches report."""

    def ran(self, rows: int) -> None: ...

    def waited(self, seconds: float) -> None: ...

    def queued(self, rows: int) -> None: ...

    def contradicted(self) -> None: ...


class Rows(msgspec.Struct, eq=False):
    """The rows of one request, and what their run gave.

    `kind` is equal for requests that can be run together; None: only alone. `batch_size`: rows of the run that they
    were part of, which began at `run_began`, in perf_counter's seconds.
    """

    signature: str
    inputs: Arrays
    count: int
    kind: Any
    outcome: Outcome = RuntimeError("not run")
    run_began: float = 0.0
    run_seconds: float = 0.0
    batch_size: int = 0

    def outputs(self) -> dict[str, Array]:
        """The outputs. Raises the error of the run."""
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def note_run(self, began: float, seconds: float, batch_size: int) -> None:
        self.run_began, self.run_seconds, self.batch_size = began, seconds, batch_size


class Independence:
    """Which of a version's signatures have independent rows: a row gives the same outputs alone, among any others, and
    in any order. A free first size does not promise that, so only rows that are declared independent are run together
    or apart.

    `signatures` loses those whose outputs contradict the declaration.
    """

    def __init__(
        self, signatures: Collection[str] = (), on_contradiction: Callable[[str], None] = lambda _signature: None
    ) -> None:
        """`on_contradiction` is called, once for each, with a signature whose outputs do not have a row for each row of
        its inputs."""
        self.signatures = frozenset(signatures)
        self._on_contradiction = on_contradiction
        self._contradicted: set[str] = set()

    def declare(self, signatures: Collection[str]) -> None:
        """These have independent rows, except for those whose outputs have contradicted."""
        self.signatures = frozenset(signatures) - self._contradicted

    def contradict(self, signature: str) -> None:
        if signature in self.signatures:
            self._contradicted.add(signature)
            self.signatures -= {signature}
            self._on_contradiction(signature)


class RowsOf:
    """Makes Rows of requests, for the signatures of one version."""

    def __init__(self, signatures: Mapping[str, Signature], independence: Independence) -> None:
        self._independence = independence
        # Where only the batch size is free, all requests for the signature have rows of one shape.
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
    """The first size, where all inputs have the same; else None."""
    sizes = {array.shape[0] if array.ndim else None for array in inputs.values()}
    return sizes.pop() if len(sizes) == 1 else None


def run_rows(run: Run, batch: Sequence[Rows], independence: Independence, observer: BatchObserver) -> None:
    """Run rows of one kind together. A bad request fails alone: where the run fails, each is run by itself."""
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
    """False where that failed, and each is to be run alone."""
    total = sum(rows.count for rows in batch)
    began = perf_counter()
    try:
        inputs = {name: np.concatenate([rows.inputs[name] for rows in batch]) for name in batch[0].inputs}
        outputs = run(batch[0].signature, inputs)
    # One bad row spoils the run for all. Alone, only the bad one fails.
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


class TickBatcher:
    """Batches of one tick of the event loop, for versions that it runs itself. Nothing ever waits for more requests."""

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
        """`requests`: signature and inputs of each. Returns their rows in the same order, run."""
        all_rows = [self._rows_of(signature, inputs) for signature, inputs in requests]
        batches: dict[object, list[Rows]] = {}
        for rows in all_rows:
            # What can only be run alone has a kind of its own.
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
class _Waiting:
    """A request that waits in a thread for its rows to be run."""

    rows: Rows
    deadline: Deadline
    arrived: float
    wake: threading.Event = field(default_factory=threading.Event)
    # Its thread runs the next batch, which it is the first of.
    leads: bool = False
    is_done: bool = False


class Batcher:
    """Batches of requests that wait in threads while the version is busy.

    There is no thread of its own and no waiting by default. The first request finds the version idle and runs at once;
    the thread that waited longest then takes all that fit with its own into the next batch, runs it, and hands on. A
    request is not run that cannot end before its deadline while others wait that can, or may come.
    """

    def __init__(
        self,
        run: Run,
        signatures: Mapping[str, Signature],
        independence: Independence,
        limits: BatchLimits,
        observer: BatchObserver,
        usual_run: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`usual_run`: how long a run takes, in seconds; 0 while unknown."""
        self._run = run
        self._independence = independence
        self._rows_of = RowsOf(signatures, independence)
        self._usual_run = usual_run
        self._limits = limits
        self._observer = observer
        self._lock = threading.Lock()
        self._arrival = threading.Condition(self._lock)
        self._queue: deque[_Waiting] = deque()
        self._waiting_rows = 0
        self._is_busy = False

    def run(self, signature: str, inputs: Arrays, deadline: Deadline | None = None) -> Rows:
        """The rows, run. Blocks until then; safe from many threads. A bad request fails alone, not its batch.

        Raises:
            DeadlineExceeded: the request was cancelled. If that was before its run, its rows are not run.
        """
        waiting = _Waiting(self._rows_of(signature, inputs), deadline or Deadline.unlimited(), time.perf_counter())
        waiting.deadline.stage = Stage.MODEL
        with self._lock:
            self._observer.queued(self._waiting_rows + waiting.rows.count)
            self._queue.append(waiting)
            self._waiting_rows += waiting.rows.count
            waiting.leads = not self._is_busy
            self._is_busy = True
            self._arrival.notify()
        while not waiting.is_done:
            if waiting.leads:
                self._lead(waiting)
            elif not self._wait(waiting):
                break
        if not waiting.is_done:
            waiting.deadline.check()
        return waiting.rows

    def _wait(self, waiting: _Waiting) -> bool:
        """Wait until it is done, or leads. False where it was cancelled: then it has left the queue."""
        waiting.deadline.on_cancel(waiting.wake.set)
        waiting.wake.wait()
        with self._lock:
            waiting.wake.clear()
            if waiting.leads or waiting not in self._queue or not waiting.deadline.is_cancelled:
                # If it is being run, nobody waits for that either.
                return waiting.leads or waiting.is_done or not waiting.deadline.is_cancelled
            self._queue.remove(waiting)
            self._waiting_rows -= waiting.rows.count
            self._observer.queued(self._waiting_rows)
            self._arrival.notify()
        return False

    def _lead(self, leader: _Waiting) -> None:
        """Run the next batch, wake its requests, and the next leader, which may be one of them."""
        batch: list[_Waiting] = []
        leader.deadline.on_cancel(self._notify_leader)
        try:
            self._take(batch)
            run_rows(self._run, [waiting.rows for waiting in batch], self._independence, self._observer)
        except Exception as error:
            # A bug. Every waiting request gets the error.
            if not batch:
                with self._lock:
                    self._queue.remove(leader)
                    self._waiting_rows -= leader.rows.count
                batch = [leader]
            for waiting in batch:
                waiting.rows.outcome = error
        finally:
            with self._lock:
                leader.leads = False
                successor = self._queue[0] if self._queue else None
                self._is_busy = successor is not None
                if successor is not None:
                    successor.leads = True
            for waiting in batch:
                waiting.is_done = True
                waiting.wake.set()
            if successor is not None:
                successor.wake.set()
        self._observer.queued(self._waiting_rows)

    def _take(self, batch: list[_Waiting]) -> None:
        """Move the next request from the queue into the batch, with those behind it that can be run with it; none where
        it was cancelled."""
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
                waiting = self._queue.popleft()
                if waiting.rows.kind != kind or waiting.deadline.is_cancelled:
                    others.append(waiting)
                elif total + waiting.rows.count > self._limits.max_batch_size:
                    others.append(waiting)
                    break
                else:
                    batch.append(waiting)
                    total += waiting.rows.count
            self._queue.extendleft(reversed(others))
            self._waiting_rows -= total - first.rows.count
        now = time.perf_counter()
        for waiting in batch:
            waiting.deadline.begin_run(now, total)
            self._observer.waited(now - waiting.arrived)

    def _next(self) -> _Waiting:
        """The first request in the queue whose run can end before its deadline.

        Where several wait and none can, wait for one that can, as long as the run of another would take in vain. Then
        take the one with the most time left all the same: its run tells how long one takes now.
        """
        usual = self._usual_run()
        alive: list[_Waiting] = []
        found: _Waiting | None = None

        def is_found() -> bool:
            nonlocal alive, found
            alive = [waiting for waiting in self._queue if not waiting.deadline.is_cancelled]
            latest = time.perf_counter() + usual
            found = next((waiting for waiting in alive if waiting.deadline.at > latest), None)
            # If the newest could not when it came, none that comes can.
            return found is not None or len(alive) < 2 or alive[-1].deadline.at < alive[-1].arrived + usual

        self._arrival.wait_for(is_found, usual)
        return found or max(alive, key=lambda waiting: waiting.deadline.at, default=self._queue[0])

    def _notify_leader(self) -> None:
        with self._lock:
            self._arrival.notify()

    def _is_full(self) -> bool:
        return self._waiting_rows >= self._limits.max_batch_size
