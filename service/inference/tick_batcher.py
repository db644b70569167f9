"""Batching on the event loop: what came in one turn of it is run together, and nothing ever waits for more."""

from collections.abc import Mapping, Sequence

from service.inference.batch import Arrays, BatchObserver, Independence, Rows, RowsOf, Run, run_rows
from service.tensors.signature import Signature


class TurnBatcher:
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
