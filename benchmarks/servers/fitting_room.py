"""This service: with its two smallest models, a hundred more, TensorFlow, or a CNN that is worth batching."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.servers import Route, Server

CLOTHING = "/v1/models/clothing:predict"
ROUTES = {
    "json": Route(CLOTHING, "v1_json"),
    "v2_binary": Route("/v2/models/clothing/infer", "v2_binary"),
    "png": Route(CLOTHING, "png"),
    "jpeg": Route(CLOTHING, "jpeg"),
}
MORE_MODELS = 100


def small_models(folder: Path) -> None:
    for version in ("regression/1", "clothing/1"):
        shutil.copytree(Path("models", version), folder / version)


def hundred_models(folder: Path) -> None:
    """MORE_MODELS beside the two, and a second version of one."""
    small_models(folder)
    for version in ("regression/2", *(f"regression_{number:02}/1" for number in range(MORE_MODELS))):
        shutil.copytree("models/regression/1", folder / version)


def cnn(folder: Path) -> None:
    """The layers of Keras's example "Simple MNIST convnet" as a SavedModel without a twin, under the name `clothing`.

    Its weights are noise: only its work counts.
    """
    import numpy as np
    import tensorflow as tf

    from service.serving_config import ServingConfig, write_serving_config

    noise = np.random.default_rng(1)

    def weights(*shape: int) -> Any:
        return tf.Variable(noise.normal(0, 0.1, shape).astype(np.float32))

    class Cnn(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
        def __init__(self) -> None:
            self.kernels = [weights(3, 3, 1, 32), weights(3, 3, 32, 64)]
            self.dense = weights(5 * 5 * 64, 10)

        @tf.function(input_signature=[tf.TensorSpec([None, 28, 28], tf.float32, name="pixels")])  # type: ignore[untyped-decorator]
        def __call__(self, pixels: Any) -> Any:
            layer = pixels[..., tf.newaxis] / 255.0
            for kernel in self.kernels:
                layer = tf.nn.max_pool2d(tf.nn.relu(tf.nn.conv2d(layer, kernel, 1, "VALID")), 2, 2, "VALID")
            return {"probabilities": tf.nn.softmax(tf.reshape(layer, [-1, 5 * 5 * 64]) @ self.dense)}

    module, version = Cnn(), folder / "clothing" / "1"
    tf.saved_model.save(module, str(version), signatures={"serving_default": module.__call__})
    # With an example, the version is timed while it loads, and batched.
    write_serving_config(version, ServingConfig(example={"instances": np.zeros((1, 28, 28)).tolist()}))
    (folder / "models.toml").write_text("[models.clothing]\nbatching = {independent_rows = true}\n")


def server(
    *flags: str,
    title: str = "Fitting Room",
    yardstick: str = "",
    models: str = "{folder}",
    prepare: Callable[[Path], None] | None = small_models,
) -> Server:
    command = ("-m", "service", "--port", "{port}", "--workers", "{workers}", "--models", models, *flags)
    return Server(title, command, ROUTES, yardstick, prepare=prepare)


# The yardsticks reject nobody who waits, and a rejected request voids a measurement: ours keeps them waiting, too.
PATIENCE = ("--max-queue-ms", "10000")
SERVERS = {
    "fitting_room": server(*PATIENCE),
    "fitting_room_tensorflow": server(*PATIENCE, "--engine", "tensorflow", title="Fitting Room, TensorFlow engine"),
    "fitting_room_2_models": server(*PATIENCE, title="Fitting Room, 2 models", yardstick="2 models"),
    "fitting_room_100_models": server(*PATIENCE, title="Fitting Room, 100 models more", prepare=hundred_models),
    "fitting_room_cnn": server(*PATIENCE, title="Fitting Room, CNN", prepare=cnn),
    "fitting_room_cnn_unbatched": server(
        *PATIENCE, "--max-batch-size", "1", title="Fitting Room, CNN, batching off", yardstick="off", prepare=cnn
    ),
}
