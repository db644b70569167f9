"""MLServer with a runtime for a SavedModel, as its documentation shows one; requests are batched, which is its best."""

import asyncio
import socket
import sys
from typing import Any

from benchmarks.servers import Route, Server

SERVER = Server(
    title="MLServer",
    yardstick="d",
    environment="bench-mlserver",
    command=("-m", "benchmarks.servers.mlserver_tensorflow", "{port}", "{workers}"),
    routes={
        "json": Route("/v2/models/clothing/infer", "v2_json"),
        "v2_binary": Route("/v2/models/clothing/infer", "v2_binary"),
    },
    variables={"TF_CPP_MIN_LOG_LEVEL": "2"},
)

# Not for the command, which reads SERVER and has no MLServer.
if "mlserver" in sys.modules:
    import mlserver
    from mlserver.codecs import NumpyCodec

    class Clothing(mlserver.MLModel):  # type: ignore[misc]
        async def load(self) -> bool:
            import tensorflow as tf

            tf.config.threading.set_intra_op_parallelism_threads(1)
            tf.config.threading.set_inter_op_parallelism_threads(1)
            self._model = tf.saved_model.load("models/clothing/1")
            self._run = self._model.signatures["serving_default"]
            self._tensor = tf.constant
            return True

        async def predict(self, payload: Any) -> Any:
            pixels = NumpyCodec.decode_input(payload.inputs[0])
            outputs = self._run(pixels=self._tensor(pixels))["probabilities"].numpy()
            return mlserver.types.InferenceResponse(
                model_name=self.name, outputs=[NumpyCodec.encode_output("probabilities", outputs)]
            )


async def main(port: int, workers: int) -> None:
    import mlserver

    settings = mlserver.Settings(
        host="127.0.0.1",
        http_port=port,
        grpc_port=_free_port(),
        metrics_endpoint=None,
        # 0: in the server's own process. Several are a pool behind it.
        parallel_workers=0 if workers == 1 else workers,
        debug=False,
        # No access log, as for the others.
        logging_settings={"version": 1, "disable_existing_loggers": True},
    )
    model = mlserver.ModelSettings(
        name="clothing",
        implementation="benchmarks.servers.mlserver_tensorflow.Clothing",
        max_batch_size=16,
        max_batch_time=0.002,
    )
    await mlserver.MLServer(settings).start([model])


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


if __name__ == "__main__":
    from mlserver.utils import install_uvloop_event_loop

    install_uvloop_event_loop()
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
