"""Dynamic batching for one version: requests that arrive while the model is busy are run together next.

There is no thread of its own and no waiting by default. The first request finds the model idle and runs at once; the
caller that waited longest then takes all that fit with its own into the next batch, runs it, and hands on.
"""

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from service.batch import Arrays, BatchObserver, Rows, RowsOf, Run, run_rows
from service.deadline import Deadline, Stage
from service.signature import Signature


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
    arrived: float = field(default_factory=time.perf_counter)
    wake: threading.Event = field(default_factory=threading.Event)
    # To lead is to run the batch whose first call this one is, at the head of the queue.
    leads: bool = False
    is_done: bool = False


class Batcher:
    def __init__(
        self, run: Run, signatures: Mapping[str, Signature], limits: BatchLimits, observer: BatchObserver
    ) -> None:
        self._run = run
        self._rows_of = RowsOf(signatures)
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
        call = _Call(self._rows_of(signature, inputs), deadline or Deadline.unlimited())
        call.deadline.stage = Stage.MODEL
        with self._lock:
            self._queue.append(call)
            self._waiting_rows += call.rows.count
            call.leads = not self._is_busy
            self._is_busy = True
            self._arrival.notify()
            self._observer.queued(self._waiting_rows)
        if not call.leads:
            self._wait(call)
        if call.leads:
            self._lead()
        if not call.is_done:
            call.deadline.check()
        return call.rows

    def _wait(self, call: _Call) -> None:
        """Until it is done, or leads, or nobody waits for it any more."""
        call.deadline.when_over(call.wake.set)
        call.wake.wait()
        with self._lock:
            if not call.leads and call in self._queue:
                self._queue.remove(call)
                self._waiting_rows -= call.rows.count
                self._observer.queued(self._waiting_rows)

    def _lead(self) -> None:
        """Runs the next batch, wakes those it answers, and whoever leads next."""
        batch = self._take()
        try:
            run_rows(self._run, [call.rows for call in batch], self._observer)
        finally:
            with self._lock:
                successor = self._queue[0] if self._queue else None
                self._is_busy = successor is not None
                if successor is not None:
                    successor.leads = True
                self._observer.queued(self._waiting_rows)
            for call in batch:
                call.is_done = True
                call.wake.set()
            if successor is not None:
                successor.wake.set()

    def _take(self) -> list[_Call]:
        """The call at the head of the queue, and those behind it that can be run with it. None where nobody waits for
        the first any more: then the next one leads."""
        with self._lock:
            if self._limits.timeout_seconds > 0:
                self._arrival.wait_for(self._is_full, self._limits.timeout_seconds)
            first = self._queue.popleft()
            self._waiting_rows -= first.rows.count
            if first.deadline.is_over:
                return []
            batch = [first]
            kind, total = first.rows.kind, first.rows.count
            others = []
            while self._queue and kind is not None and total < self._limits.max_batch_size:
                call = self._queue.popleft()
                if call.rows.kind != kind or call.deadline.is_over:
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
        return batch

    def _is_full(self) -> bool:
        return self._waiting_rows >= self._limits.max_batch_size
