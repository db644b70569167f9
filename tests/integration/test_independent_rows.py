"""Models of strangers under many clients at once: every answer is the one that the graph gives to the request alone."""

import itertools
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from service.serving_config import ServingConfig, write_serving_config
from tests.integration.saved_models import save, save_counter, spec
from tests.integration.server import Server, running
from training.export.independence import RowsDepend, prove
from training.export.saved_model import read_signatures

Array = np.ndarray[Any, Any]
Tensors = dict[str, Any]
REQUESTS = 60
CLIENTS = 16


@dataclass(frozen=True)
class Graph:
    """`answer` as TensorFlow computes it; `request` makes inputs. `is_independent`: what its proof has to say."""

    specs: dict[str, Any]
    answer: Callable[..., Tensors]
    request: Callable[[random.Random], dict[str, Array]]
    is_independent: bool = False


def features(rng: random.Random, rows: int, width: int) -> Array:
    return np.array([[rng.uniform(-2, 2) for _ in range(width)] for _ in range(rows)], np.float32)


def a_few(rng: random.Random) -> int:
    """Rows of a request; some have more than a batch holds."""
    return rng.choice([1, 1, 1, 2, 3, 5, 8, 50])


def work(x: Any, rounds: int) -> Any:
    """Takes a while, so that requests meet at a busy model; adds nothing."""
    zero = tf.reduce_sum(x) * 0.0
    square = tf.fill([96, 96], zero)
    for _ in range(rounds):
        square = tf.linalg.matmul(square, square)
    return x + tf.reduce_sum(square)


def row_wise(rng: random.Random, width: int, rounds: int) -> Graph:
    weights = features(rng, width, 4)
    function = rng.choice([tf.nn.relu, tf.nn.softmax, tf.math.tanh])
    return Graph(
        {"x": spec("x", shape=[None, width])},
        lambda x: {"y": function(work(x, rounds) @ weights), "first": x[:, 0]},
        lambda rng: {"x": features(rng, a_few(rng), width)},
        is_independent=True,
    )


def list_wise(rng: random.Random, width: int, rounds: int) -> Graph:
    weights = features(rng, width, 1)
    functions: list[Callable[[Any], Any]] = [
        lambda scores: tf.nn.softmax(scores, axis=0),
        lambda scores: scores - tf.reduce_mean(scores),
        lambda scores: tf.cumsum(scores),
        lambda scores: tf.reverse(scores, [0]),
    ]
    function = rng.choice(functions)
    return Graph(
        {"x": spec("x", shape=[None, width])},
        lambda x: {"y": function((work(x, rounds) @ weights)[:, 0])},
        lambda rng: {"x": features(rng, a_few(rng), width)},
    )


def detections(rng: random.Random, width: int, rounds: int) -> Graph:
    threshold = rng.uniform(-0.5, 0.5)

    def answer(x: Any) -> Tensors:
        flat = tf.reshape(work(x, rounds), [-1])
        return {"boxes": tf.boolean_mask(flat, flat > threshold)}

    return Graph(
        {"x": spec("x", shape=[None, width])},
        answer,
        lambda rng: {"x": features(rng, a_few(rng), width)},
    )


def scalars(_rng: random.Random, width: int, rounds: int) -> Graph:
    return Graph(
        {"x": spec("x", shape=[None, width])},
        lambda x: {"sum": tf.reduce_sum(work(x, rounds)), "rows": tf.shape(x)[0]},
        lambda rng: {"x": features(rng, a_few(rng), width)},
    )


def two_axes(_rng: random.Random, width: int, rounds: int) -> Graph:
    """Each query against each key, of which there may be another number, or the same by chance."""
    return Graph(
        {
            "queries": spec("queries", shape=[None, width]),
            "keys": spec("keys", shape=[None, width]),
        },
        lambda queries, keys: {"scores": tf.nn.softmax(work(queries, rounds) @ tf.transpose(keys))},
        lambda rng: {"queries": features(rng, a_few(rng), width), "keys": features(rng, a_few(rng), width)},
    )


KINDS = (row_wise, list_wise, detections, scalars, two_axes)


def proof_of(path: Path, graph: Graph) -> ServingConfig:
    """As our export does it, on rows of its own."""
    rng = random.Random(1)
    inputs = {name: features(rng, 16, spec.shape[1]) for name, spec in graph.specs.items()}
    signatures = read_signatures(path)
    try:
        return ServingConfig(independent_rows=prove(path, signatures, "serving_default", inputs, has_twin=False))
    except RowsDepend:
        return ServingConfig()


def answers(server: Server, model: str, requests: list[dict[str, Array]]) -> Iterator[dict[str, Any]]:
    def predict(inputs: dict[str, Array]) -> dict[str, Any]:
        body = {"inputs": {name: array.tolist() for name, array in inputs.items()}}
        answer = server.request(f"/v1/models/{model}:predict", body)
        assert answer.status == 200, answer.body
        outputs = answer.json()["outputs"]
        return outputs if isinstance(outputs, dict) else {"": outputs}

    with ThreadPoolExecutor(CLIENTS) as pool:
        yield from pool.map(predict, requests)


def check(server: Server, model: str, graph: Graph) -> None:
    rng = random.Random(2)
    requests = [graph.request(rng) for _ in range(REQUESTS)]
    for inputs, found in zip(requests, answers(server, model, requests), strict=True):
        expected = {name: np.asarray(tensor) for name, tensor in graph.answer(**inputs).items()}
        if found.keys() == {""}:
            found = {next(iter(expected)): found[""]}
        for name, array in expected.items():
            assert np.shape(found[name]) == array.shape, (model, name)
            np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5, err_msg=f"{model}: {name}")


@pytest.fixture(scope="module")
def graphs() -> dict[str, Graph]:
    """Of each kind a quick and a slow one."""
    rng = random.Random(1)
    return {
        f"{kind.__name__}_{rounds}": kind(rng, rng.randint(1, 5), rounds)
        for kind, rounds in itertools.product(KINDS, (0, 60))
    }


@pytest.fixture(scope="module")
def server(graphs: dict[str, Graph], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Each graph with its proof, where there is one; one that the operator wrongly calls independent; and a counter."""
    models = tmp_path_factory.mktemp("models")
    for name, graph in graphs.items():
        save(models / name / "1", graph.answer, *graph.specs.values())
        config = proof_of(models / name / "1", graph)
        assert (config.independent_rows is not None) is graph.is_independent, name
        write_serving_config(models / name / "1", config)
    wrong = graphs["detections_60"]
    save(models / "wrong" / "1", wrong.answer, *wrong.specs.values())
    (models / "models.toml").write_text("[models.wrong]\nbatching = {independent_rows = true}\n")
    save_counter(models / "counter" / "1")
    with running(models, tmp_path_factory.mktemp("log") / "log") as server:
        yield server


def test_every_answer_is_the_one_that_the_graph_gives_alone(server: Server, graphs: dict[str, Graph]) -> None:
    for name, graph in graphs.items():
        check(server, name, graph)


def test_what_is_wrongly_called_independent_is_run_alone_once_its_outputs_say_so(
    server: Server, graphs: dict[str, Graph]
) -> None:
    check(server, "wrong", graphs["detections_60"])
    server.wait_until_logged("the rows of 'serving_default' are said to be independent, and its outputs do not")
    assert server.sample('serving_batch_contradictions_total{model="wrong",version="1"}') == 1


def test_model_with_a_state_is_run_once_for_each_request(server: Server) -> None:
    requests = [{"x": np.zeros(rows, np.float32)} for rows in itertools.islice(itertools.cycle((1, 2, 40)), REQUESTS)]
    found = [outputs[""] for outputs in answers(server, "counter", requests)]
    assert [len(calls) for calls in found] == [len(inputs["x"]) for inputs in requests]
    assert all(len(set(calls)) == 1 for calls in found)
    assert sorted(calls[0] for calls in found) == list(range(1, REQUESTS + 1))
