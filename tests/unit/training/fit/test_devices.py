import json
from typing import Any

import pytest

from training.errors import ConfigError
from training.fit import devices
from training.fit.devices import Cluster

WORKERS = ["one:12345", "two:12345"]


def read(task: Any, **members: Any) -> Cluster:
    return devices.cluster_from({"TF_CONFIG": json.dumps({"cluster": members, "task": task})})


def test_worker_knows_its_place() -> None:
    assert read({"type": "worker", "index": 1}, worker=WORKERS) == Cluster(("one:12345", "two:12345"), 1)


def test_chief_comes_before_the_workers() -> None:
    assert read({"type": "chief", "index": 0}, chief=["main:1"], worker=WORKERS).index == 0
    assert read({"type": "worker", "index": 1}, chief=["main:1"], worker=WORKERS) == Cluster(
        ("main:1", "one:12345", "two:12345"), 2
    )


def test_without_tf_config_the_error_shows_one() -> None:
    with pytest.raises(ConfigError, match=r'needs TF_CONFIG, expected like \{"cluster": \{"worker": \["one.example'):
        devices.cluster_from({})


def test_invalid_json_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"TF_CONFIG is no JSON .*line 1 column 1"):
        devices.cluster_from({"TF_CONFIG": "worker 0"})


@pytest.mark.parametrize("content", ['"text"', "[]", "{}", '{"cluster": []}'])
def test_missing_cluster_is_an_error(content: str) -> None:
    with pytest.raises(ConfigError, match='TF_CONFIG lacks the object "cluster"'):
        devices.cluster_from({"TF_CONFIG": content})


def test_missing_task_is_an_error() -> None:
    with pytest.raises(ConfigError, match='TF_CONFIG lacks the object "task"'):
        devices.cluster_from({"TF_CONFIG": '{"cluster": {"worker": ["one:1"]}}'})


@pytest.mark.parametrize("workers", ["one:1", ["one"], ["one:port"], [":1"], ["one:0"], ["one:65536"], [1]])
def test_invalid_addresses_are_an_error(workers: Any) -> None:
    with pytest.raises(ConfigError, match=r'TF_CONFIG has for worker .*, expected a list of "host:port"'):
        read({"type": "worker", "index": 0}, worker=workers)


def test_duplicate_address_is_an_error() -> None:
    with pytest.raises(ConfigError, match="TF_CONFIG names an address twice among one:1, one:1"):
        read({"type": "worker", "index": 0}, worker=["one:1", "one:1"])


@pytest.mark.parametrize("index", [2, -1, "0", None, True])
def test_unknown_index_is_an_error(index: Any) -> None:
    with pytest.raises(ConfigError, match=r"TF_CONFIG has the task index .*, of workers it names 2"):
        read({"type": "worker", "index": index}, worker=WORKERS)


def test_unknown_task_type_is_an_error() -> None:
    with pytest.raises(ConfigError, match='TF_CONFIG has the task type "ps", expected worker or chief'):
        read({"type": "ps", "index": 0}, worker=WORKERS)
