import json
from typing import Any

import pytest

from training.errors import ConfigError
from training.fit.devices import Cluster, cluster_from

FIRST = {"type": "worker", "index": 0}
TWO = {"worker": ["one:1", "two:1"]}
WITH_CHIEF = TWO | {"chief": ["main:1"]}


def read(content: Any) -> Cluster:
    return cluster_from({"TF_CONFIG": json.dumps(content)})


@pytest.mark.parametrize(
    ("cluster", "task", "expected"),
    [
        (TWO, {"type": "worker", "index": 1}, Cluster(("one:1", "two:1"), 1)),
        (WITH_CHIEF, {"type": "chief", "index": 0}, Cluster(("main:1", "one:1", "two:1"), 0)),
        (WITH_CHIEF, {"type": "worker", "index": 1}, Cluster(("main:1", "one:1", "two:1"), 2)),
    ],
)
def test_place_among_chief_and_workers(cluster: Any, task: Any, expected: Cluster) -> None:
    assert read({"cluster": cluster, "task": task}) == expected


def test_missing_or_invalid_json_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r'needs TF_CONFIG, expected like \{"cluster": \{"worker": \["one.example'):
        cluster_from({})
    with pytest.raises(ConfigError, match=r"TF_CONFIG is no JSON .*line 1 column 1"):
        cluster_from({"TF_CONFIG": "worker 0"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text", 'lacks the object "cluster"'),
        ([], 'lacks the object "cluster"'),
        ({"cluster": []}, 'lacks the object "cluster"'),
        ({"cluster": TWO}, 'lacks the object "task"'),
        ({"cluster": {"worker": ["one:1", "one:1"]}, "task": FIRST}, "names an address twice among one:1, one:1"),
        ({"cluster": TWO, "task": {"type": "ps", "index": 0}}, 'has the task type "ps", expected worker or chief'),
    ],
)
def test_invalid_cluster_or_task_is_an_error(content: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"TF_CONFIG {message}"):
        read(content)


@pytest.mark.parametrize("workers", ["one:1", ["one"], ["one:port"], [":1"], ["one:0"], ["one:65536"], [1]])
def test_invalid_addresses_are_an_error(workers: Any) -> None:
    with pytest.raises(ConfigError, match=r'TF_CONFIG has for worker .*, expected a list of "host:port"'):
        read({"cluster": {"worker": workers}, "task": FIRST})


@pytest.mark.parametrize("index", [2, -1, "0", None, True])
def test_unknown_index_is_an_error(index: Any) -> None:
    with pytest.raises(ConfigError, match=r"TF_CONFIG has the task index .*, of workers it names 2"):
        read({"cluster": TWO, "task": {"type": "worker", "index": index}})
