"""Batches of one turn of the event loop."""

import numpy as np

from service.errors import InvalidRequest
from service.inference.batching import Arrays, TickBatcher
from service.tensors.dtypes import Array
from service.tensors.signature import Signature, TensorSpec
from tests.unit.service.fakes import Unobserved, independent, signature, tensor

ROWS = signature({"x": tensor("DT_FLOAT", -1)}, {"y": tensor("DT_FLOAT", -1)})
PAIRS = signature({"x": tensor("DT_FLOAT", -1, -1)}, {"y": tensor("DT_FLOAT", -1)})
WHOLE = signature({"x": tensor("DT_FLOAT", 2)}, {"y": tensor("DT_FLOAT", -1)})


class Model(Unobserved):
    """Sums what is behind the first size. A negative value is refused, with all that came with it."""

    def __init__(self) -> None:
        self.runs: list[list[float]] = []
        self.sizes: list[int] = []

    def run(self, _signature: str, inputs: Arrays) -> dict[str, Array]:
        x = inputs["x"]
        self.runs.append(x.ravel().tolist())
        if (x < 0).any():
            raise InvalidRequest("negative")
        return {"y": x if x.ndim == 1 else x.sum(axis=1)}

    def ran(self, rows: int) -> None:
        self.sizes.append(rows)


def run(model: Model, of: Signature, *requests: object, most: int = 8) -> list[object]:
    batcher = TickBatcher(model.run, {"of": of}, independent({"of": of}), most, model)
    ran = batcher.run([("of", {"x": np.array(request, np.float32)}) for request in requests])
    return [str(rows.outcome) if isinstance(rows.outcome, Exception) else rows.outcome["y"].tolist() for rows in ran]


def test_requests_are_run_together_and_their_answers_kept_apart() -> None:
    model = Model()
    assert run(model, ROWS, [1], [2, 3], [4]) == [[1], [2, 3], [4]]
    assert model.runs == [[1, 2, 3, 4]]
    assert model.sizes == [4]


def test_each_request_is_told_how_many_rows_were_run_with_its_own() -> None:
    model = Model()
    batcher = TickBatcher(model.run, {"of": ROWS}, independent({"of": ROWS}), 8, model)
    requests = [("of", {"x": np.array(rows, np.float32)}) for rows in ([1], [2, 3], [4] * 8)]
    together, too, alone = batcher.run(requests)
    assert (together.batch_size, too.batch_size, alone.batch_size) == (3, 3, 8)
    assert (together.run_began, together.run_seconds) == (too.run_began, too.run_seconds)
    assert alone.run_began >= too.run_began + too.run_seconds


def test_a_request_that_fails_is_told_of_its_own_run() -> None:
    model = Model()
    batcher = TickBatcher(model.run, {"of": ROWS}, independent({"of": ROWS}), 8, model)
    good, bad = batcher.run([("of", {"x": np.array(rows, np.float32)}) for rows in ([1, 2], [-1])])
    assert (good.batch_size, bad.batch_size) == (2, 1)
    assert bad.run_began >= good.run_began + good.run_seconds > 0


def test_no_batch_has_more_rows_than_it_may_and_no_request_is_split() -> None:
    model = Model()
    assert run(model, ROWS, [1, 2], [3], [4, 5], [6, 7, 8, 9], most=3) == [[1, 2], [3], [4, 5], [6, 7, 8, 9]]
    assert model.runs == [[1, 2, 3], [4, 5], [6, 7, 8, 9]]


def test_rows_of_different_lengths_are_not_run_together() -> None:
    model = Model()
    assert run(model, PAIRS, [[1, 2]], [[1, 2, 3]], [[4, 5]]) == [[3], [6], [9]]
    assert model.runs == [[1, 2, 4, 5], [1, 2, 3]]


def test_shapes_that_are_left_to_the_graph_are_not_run_together_with_others() -> None:
    model = Model()
    of = signature({"x": TensorSpec("x:0", "DT_FLOAT", (-1,), is_held=False)}, {"y": tensor("DT_FLOAT", -1)})
    assert run(model, of, [1], [[2, 3]], [4], [[5, 6]]) == [[1], [5], [4], [11]]
    assert model.runs == [[1, 4], [2, 3, 5, 6]]


def test_requests_without_rows_take_no_others_rows() -> None:
    assert run(Model(), ROWS, [], [1, 2], []) == [[], [1, 2], []]


def test_a_signature_without_a_free_first_size_is_run_for_each() -> None:
    model = Model()
    assert run(model, WHOLE, [1, 2], [3, 4]) == [[1, 2], [3, 4]]
    assert model.runs == [[1, 2], [3, 4]]


def test_a_bad_request_fails_alone() -> None:
    model = Model()
    assert run(model, ROWS, [1], [-2], [3]) == [[1], "negative", [3]]
    assert model.runs == [[1, -2, 3], [1], [-2], [3]]
