"""Devices, precision and TF_CONFIG. TensorFlow is imported only when a function needs it.

TF_CONFIG names the processes that share a fit, in TensorFlow's own form; they differ in `task` alone:

{"cluster": {"worker": ["one.example:12345", "two.example:12345"]}, "task": {"type": "worker", "index": 0}}
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from training.errors import ConfigError

STRATEGIES = ("one", "multiworker")  # `--strategy`
PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")  # `--precision`
TENSOR_CORES = (7, 0)  # compute capability from which on a GPU has them, and float16 pays
VARIABLE = "TF_CONFIG"


def chosen_precision(precision: str) -> str:
    """The precision that is used: `auto` is float32, or mixed_float16 on GPUs with tensor cores."""
    if precision != "auto":
        return precision
    import tensorflow as tf

    found = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    fast = bool(found) and all(each.get("compute_capability", (0, 0)) >= TENSOR_CORES for each in found)
    return "mixed_float16" if fast else "float32"


@contextmanager
def precision_scope(precision: str) -> Iterator[None]:
    """Create and compile models in it: they compute in this precision, with float32 weights.

    Keras scales the loss of such a model if the precision is mixed_float16.
    """
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(chosen_precision(precision))
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def cores() -> int:
    """Cores that this process may use; in a container fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe() -> str:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return f"{cores()} CPU core{'s' if cores() > 1 else ''}"
    names = [str(tf.config.experimental.get_device_details(gpu).get("device_name", "of no name")) for gpu in gpus]
    return "GPU " + ", ".join(names)


@dataclass(frozen=True)
class Cluster:
    """`index` is this process's place in `addresses`; the first is the chief, which evaluates and exports."""

    addresses: tuple[str, ...]
    index: int


def cluster_from(environment: Mapping[str, str]) -> Cluster:
    """Reads TF_CONFIG. ConfigError if it is missing or invalid."""
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
