"""BentoML with a SavedModel, as its documentation shows: a service class, an array in, an array out."""

import os
import sys

from benchmarks.servers import Route, Server

SERVER = Server(
    title="BentoML",
    yardstick="d",
    environment="bench-bentoml",
    command=(
        "-m",
        "bentoml",
        "serve",
        "benchmarks.servers.bentoml_tensorflow:Clothing",
        "--host=127.0.0.1",
        "--port={port}",
    ),
    routes={"json": Route("/predict", "bentoml_json")},
    variables={"TF_CPP_MIN_LOG_LEVEL": "2", "BENTOML_DO_NOT_TRACK": "True", "BENCH_WORKERS": "{workers}"},
)

# Not for the command, which reads SERVER and has no BentoML.
if "bentoml" in sys.modules:
    import bentoml
    import numpy as np

    @bentoml.service(workers=int(os.environ.get("BENCH_WORKERS", "1")), logging={"access": {"enabled": False}})
    class Clothing:
        def __init__(self) -> None:
            import tensorflow as tf

            tf.config.threading.set_intra_op_parallelism_threads(1)
            tf.config.threading.set_inter_op_parallelism_threads(1)
            self._model = tf.saved_model.load("models/clothing/1")
            self._run = self._model.signatures["serving_default"]
            self._tensor = tf.constant

        @bentoml.api(batchable=True, max_batch_size=16, max_latency_ms=1000)  # type: ignore[untyped-decorator]
        async def predict(self, pixels: np.ndarray) -> np.ndarray:
            outputs: np.ndarray = self._run(pixels=self._tensor(pixels.astype(np.float32)))["probabilities"].numpy()
            return outputs
