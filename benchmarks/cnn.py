"""A small CNN as a SavedModel without a twin: `python -m benchmarks.cnn FOLDER`.

The layers of Keras's own example for digits ("Simple MNIST convnet"). Its weights are noise: only its work counts.
"""

import sys
from pathlib import Path
from typing import Any


def save(models: Path) -> None:
    """Under the name that the routes have: clothing, version 1; 28 x 28 floats in, ten probabilities out."""
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

    module = Cnn()
    version = models / "clothing" / "1"
    tf.saved_model.save(module, str(version), signatures={"serving_default": module.__call__})
    # So that it is timed when it is loaded, and batched.
    write_serving_config(version, ServingConfig(example={"instances": np.zeros((1, 28, 28)).tolist()}))
    (models / "models.toml").write_text("[models.clothing]\nbatching = {independent_rows = true}\n")


if __name__ == "__main__":
    save(Path(sys.argv[1]))
