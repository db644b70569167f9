"""Models of strangers under many clients at once: every answer is the one that the graph gives to the request alone."""

import itertools
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from service.engines.tensorflow.engine import SavedModelEngine
from service.serving_config import ServingConfig, write_serving_config
from tests.integration.saved_models import save, save_counter, spec
from tests.integration.server import Server, running
from training.export.independence import RowsDepend, prove

REQUESTS = 60
CLIENTS = 16
WIDTH = 3
WEIGHTS = np.random.default_rng(1).normal(size=(WIDTH, 4)).astype(np.float32)

Array = np.ndarray[Any, Any]
Answer = Callable[[Any, Any], dict[str, Any]]

# Of features and of keys, of which there may be another number, or the same by chance.
ANSWERS: dict[str, Answer] = {
    "row_wise": lambda x, _: {"y": tf.nn.softmax(x @ WEIGHTS), "first": x[:, 0]},
    "list_wise": lambda x, _: {"y": tf.nn.softmax((x @ WEIGHTS)[:, 0])},
    "running": lambda x, _: {"y": tf.cumsum(x)},
    "detections": lambda x, _: {"boxes": tf.boolean_mask(tf.reshape(x, [-1]), tf.reshape(x, [-1]) > 0.2)},
    "scalars": lambda x, _: {"sum": tf.reduce_sum(x), "rows": tf.shape(x)[0]},
    "two_axes": lambda x, keys: {"scores": tf.nn.softmax(x @ tf.transpose(keys))},
}
SPECS = {"x": spec("x", shape=[None, WIDTH]), "keys": spec("keys", shape=[None, WIDTH])}


def inputs_of(name: str) -> list[str]:
    return ["x", "keys"] if name == "two_axes" else ["x"]


def features(rng: random.Random, rows: int) -> Array:
    return np.array([[rng.uniform(-2, 2) for _ in range(WIDTH)] for _ in range(rows)], np.float32)


def slowed(x: Any) -> Any:
    """Takes a while, so that requests meet at a busy model; adds nothing."""
    square = tf.fill([96, 96], tf.reduce_sum(x) * 0.0)
    for _ in range(60):
        square = tf.linalg.matmul(square, square)
    return x + tf.reduce_sum(square)


def save_graph(path: Path, name: str, *, slow: bool) -> None:
    def answer(x: Any, keys: Any = None) -> dict[str, Any]:
        return ANSWERS[name](slowed(x) if slow else x, keys)

    save(path, answer, *(SPECS[each] for each in inputs_of(name)))


def proof_of(path: Path, name: str) -> ServingConfig:
    """As our export makes it."""
    inputs = {each: features(random.Random(1), 16) for each in inputs_of(name)}
    try:
        proof = prove([SavedModelEngine(path)], {"serving_default": inputs})
    except RowsDepend:
        return ServingConfig()
    return ServingConfig(independent_rows=proof)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Each graph quick and slow, with its proof where there is one; one that the operator wrongly calls independent;
    and a counter."""
    models = tmp_path_factory.mktemp("models")
    for name, slow in itertools.product(ANSWERS, (False, True)):
        version = models / (f"{name}_slow" if slow else name) / "1"
        save_graph(version, name, slow=slow)
        config = proof_of(version, name)
        assert (config.independent_rows is not None) is (name == "row_wise"), name
        write_serving_config(version, config)
    save_graph(models / "wrong" / "1", "detections", slow=True)
    (models / "models.toml").write_text("[models.wrong]\nbatching = {independent_rows = true}\n")
    save_counter(models / "counter" / "1")
    with running(models, tmp_path_factory.mktemp("log") / "log") as server:
        yield server


def answers(server: Server, model: str, requests: list[dict[str, Array]]) -> Iterator[Any]:
    def predict(inputs: dict[str, Array]) -> Any:
        body = {"inputs": {name: array.tolist() for name, array in inputs.items()}}
        answer = server.request(f"/v1/models/{model}:predict", body)
        assert answer.status == 200, answer.body
        return answer.json()["outputs"]

    with ThreadPoolExecutor(CLIENTS) as pool:
        yield from pool.map(predict, requests)


def check(server: Server, model: str, name: str) -> None:
    rng = random.Random(2)
    # Some have more rows than a batch holds.
    rows = [1, 1, 1, 2, 3, 5, 8, 50]
    requests = [{each: features(rng, rng.choice(rows)) for each in inputs_of(name)} for _ in range(REQUESTS)]
    for inputs, found in zip(requests, answers(server, model, requests), strict=True):
        expected = {each: np.asarray(array) for each, array in ANSWERS[name](inputs["x"], inputs.get("keys")).items()}
        # The only output comes without its name.
        for each, array in expected.items():
            output = found[each] if len(expected) > 1 else found
            assert np.shape(output) == array.shape, each
            np.testing.assert_allclose(output, array, rtol=1e-4, atol=1e-5, err_msg=each)


@pytest.mark.parametrize("model", [f"{name}{pace}" for name in ANSWERS for pace in ("", "_slow")])
def test_every_answer_is_the_one_that_the_graph_gives_alone(server: Server, model: str) -> None:
    check(server, model, model.removesuffix("_slow"))


def test_what_is_wrongly_called_independent_is_run_alone_once_its_outputs_say_so(server: Server) -> None:
    check(server, "wrong", "detections")
    server.wait_until_logged("the rows of 'serving_default' are said to be independent, and its outputs do not")
    assert server.sample('serving_batch_contradictions_total{model="wrong",version="1"}') == 1


def test_model_with_a_state_is_run_once_for_each_request(server: Server) -> None:
    requests = [{"x": np.zeros(rows, np.float32)} for rows in itertools.islice(itertools.cycle((1, 2, 40)), REQUESTS)]
    found = list(answers(server, "counter", requests))
    assert [len(calls) for calls in found] == [len(inputs["x"]) for inputs in requests]
    assert all(len(set(calls)) == 1 for calls in found)
    assert sorted(calls[0] for calls in found) == list(range(1, REQUESTS + 1))
