"""Workers: this process alone, or several that each take a share of every batch and sum their gradients.

Several are TensorFlow's MultiWorkerMirroredStrategy. Keras 3's fit fails there in two places (keras#20585), which
`SharedModel` fixes.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training.fit import devices


@dataclass(frozen=True)
class Worker:
    """One of the processes of a fit. Worker 0 is the chief; the others write nothing."""

    index: int = 0
    count: int = 1
    strategy: Any = None

    @property
    def chief(self) -> bool:
        return self.index == 0

    @property
    def replicas(self) -> int:
        """How many shares a batch has: one for each worker, or for each of its GPUs."""
        return int(self.strategy.num_replicas_in_sync) if self.strategy else 1

    def scope(self) -> AbstractContextManager[Any]:
        """Create models and optimizers in it."""
        scope: AbstractContextManager[Any] = self.strategy.scope() if self.strategy else nullcontext()
        return scope

    def model(self, inputs: Any, outputs: Any) -> Any:
        return (SharedModel if self.strategy else keras.Model)(inputs, outputs)

    def share(self, content: bytes) -> bytes:
        """Gives the chief's content to every worker."""
        if not self.strategy:
            return content
        (length,) = self._from_chief(np.array([len(content)], np.int32))
        padded = np.zeros(length, np.uint8)
        if self.chief:
            padded[:] = np.frombuffer(content, np.uint8)
        return bytes(self._from_chief(padded.astype(np.int32)).astype(np.uint8))

    def _from_chief(self, values: Any) -> Any:
        def replica() -> Any:
            context = tf.distribute.get_replica_context()
            first = tf.cast(context.replica_id_in_sync_group == 0, tf.int32)
            return context.all_reduce(tf.distribute.ReduceOp.SUM, first * tf.constant(values))

        summed = tf.function(lambda: self.strategy.run(replica))()
        return self.strategy.experimental_local_results(summed)[0].numpy()


ALONE = Worker()


def start(name: str) -> Worker:
    """Starts this worker and waits for the others. Call it before TensorFlow computes anything.

    ConfigError if TF_CONFIG is wrong.
    """
    if name == "one":
        return ALONE
    members = devices.cluster_from(os.environ)
    count = len(members.addresses)
    print(f"Worker      {members.index + 1} of {count}, at {members.addresses[members.index]}; waits for the others")
    return Worker(members.index, count, tf.distribute.MultiWorkerMirroredStrategy())


class SharedModel(keras.Model):  # type: ignore[misc]  # Keras has no types
    def train_step(self, data: Any) -> Any:
        return _as_vectors(super().train_step(data))

    def test_step(self, data: Any) -> Any:
        return _as_vectors(super().test_step(data))

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # Keras averages a first batch over the workers to see its shape, which TensorFlow refuses.
        if iterator is not None:
            _, _, distributed = next(iter(iterator))
            local = self.distribute_strategy.experimental_local_results
            data_batch = tuple(local(part)[0] for part in next(distributed))
        super()._maybe_symbolic_build(data_batch=data_batch)


def _as_vectors(logs: dict[str, Any]) -> dict[str, Any]:
    """Gives scalars the axis 0 along which Keras averages a step's results over the workers."""
    return {name: value[tf.newaxis] for name, value in logs.items()}
