"""The processes that share a fit, as TF_CONFIG names them: TensorFlow's own form, the same for each but for `task`.

{"cluster": {"worker": ["one.example:12345", "two.example:12345"]}, "task": {"type": "worker", "index": 0}}
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from training.errors import ConfigError

STRATEGIES = ("one", "multiworker")  # `--strategy`
VARIABLE = "TF_CONFIG"


@dataclass(frozen=True)
class Cluster:
    """`index` is this process's place in `addresses`; the first is the chief, who evaluates and exports."""

    addresses: tuple[str, ...]
    index: int


def from_environment(environment: Mapping[str, str]) -> Cluster:
    """ConfigError where TF_CONFIG is missing or is none that a fit could begin with."""
    if VARIABLE not in environment:
        raise ConfigError(f"--strategy multiworker needs {VARIABLE}, expected like {_example()}")
    try:
        config = json.loads(environment[VARIABLE])
    except ValueError as error:
        raise ConfigError(f"{VARIABLE} is no JSON ({error}), expected like {_example()}") from None
    cluster, task = _part(config, "cluster"), _part(config, "task")
    addresses = []
    for kinds in ("chief", "worker"):
        found = cluster.get(kinds, [])
        if not isinstance(found, list) or not all(_is_address(each) for each in found):
            raise ConfigError(f'{VARIABLE} has for {kinds} {json.dumps(found)}, expected a list of "host:port"')
        addresses += found
    if len(set(addresses)) < len(addresses):
        raise ConfigError(f"{VARIABLE} names an address twice among {', '.join(addresses)}")
    kind, index = task.get("type"), task.get("index")
    if kind not in ("chief", "worker"):
        raise ConfigError(f"{VARIABLE} has the task type {json.dumps(kind)}, expected worker or chief")
    count = len(cluster.get(kind, []))
    if type(index) is not int or not 0 <= index < count:
        raise ConfigError(f"{VARIABLE} has the task index {json.dumps(index)}, of {kind}s it names {count}")
    return Cluster(tuple(addresses), index + (len(cluster.get("chief", [])) if kind == "worker" else 0))


def _part(config: Any, name: str) -> dict[str, Any]:
    part = config.get(name) if isinstance(config, dict) else None
    if not isinstance(part, dict):
        raise ConfigError(f'{VARIABLE} lacks the object "{name}", expected like {_example()}')
    return part


def _is_address(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    host, _, port = value.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 2**16


def _example() -> str:
    cluster = {"worker": ["one.example:12345", "two.example:12345"]}
    return json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}})
