"""Dynamic batching for one version: requests that arrive while the model is busy are run together next, where their
rows are independent, and else one after the other.

There is no thread of its own and no waiting by default. The first request finds the model idle and runs at once; the
caller that waited longest then takes all that fit with its own into the next batch, runs it, and hands on. Nothing is
run that cannot end before its deadline while others wait that can, or may come.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from service.inference.batch import Arrays, BatchObserver, Independence, Rows, RowsOf, Run, run_rows
from service.inference.deadline import Deadline, Stage
from service.tensors.signature import Signature


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
        call.deadline.when_over(call.wake.set)
        call.wake.wait()
        with self._lock:
            call.wake.clear()
            if call.leads or call not in self._queue or not call.deadline.is_over:
                # One that is being run is not waited for, either.
                return call.leads or call.is_done or not call.deadline.is_over
            self._queue.remove(call)
            self._waiting_rows -= call.rows.count
            self._observer.queued(self._waiting_rows)
            self._arrival.notify()
        return False

    def _lead(self, leader: _Call) -> None:
        """Runs the next batch, wakes those it answers, and whoever leads next, which may be the same."""
        batch: list[_Call] = []
        leader.deadline.when_over(self._notify_leader)
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
            if first.deadline.is_over:
                return
            batch.append(first)
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

    def _next(self) -> _Call:
        """The first in the queue whose run can end before its deadline. Where several wait and none can, one that can
        may come while another would be run in vain: so long is waited for it. Then the one with the most time left is
        run all the same, for that tells how long it takes now."""
        usual = self._usual_run()
        waiting: list[_Call] = []
        found: _Call | None = None

        def is_found() -> bool:
            nonlocal waiting, found
            waiting = [call for call in self._queue if not call.deadline.is_over]
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
