"""What a fit computes on, and in which precision."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")  # `--precision`
TENSOR_CORES = (7, 0)  # compute capability from which on a GPU has them, and float16 pays


def chosen(precision: str) -> str:
    """`auto` is float32, but for a GPU with tensor cores."""
    if precision != "auto":
        return precision
    import tensorflow as tf

    found = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    fast = bool(found) and all(each.get("compute_capability", (0, 0)) >= TENSOR_CORES for each in found)
    return "mixed_float16" if fast else "float32"


@contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Layers and models made in it compute so, with float32 weights; compile in it too.

    A model that is made in it has its loss scaled by Keras where that is mixed_float16.
    """
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(chosen(precision))
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def cores() -> int:
    """That this process may use, which in a container are fewer than the machine has."""
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
