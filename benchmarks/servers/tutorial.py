"""The server of the usual tutorial: Flask, `model.predict`, gunicorn's default worker."""

from typing import Any

from benchmarks.servers import Route, Server

SERVER = Server(
    title="tutorial: Flask, model.predict, gunicorn sync",
    yardstick="b",
    command=(
        "-m",
        "gunicorn",
        "--bind=127.0.0.1:{port}",
        "--workers={workers}",
        "--timeout=120",
        "--no-control-socket",
        "--log-level=error",
        "benchmarks.servers.tutorial:create_app()",
    ),
    routes={"json": Route("/predict", "v1_json")},
    variables={"TF_CPP_MIN_LOG_LEVEL": "2"},
)


def create_app() -> Any:
    import keras
    import numpy as np
    from flask import Flask, jsonify, request

    # The exported SavedModel as a Keras model: the very same graph and weights as everybody else's.
    layer = keras.layers.TFSMLayer("models/clothing/1", call_endpoint="serving_default")
    pixels = keras.Input(shape=(28, 28), name="pixels")
    model = keras.Model(pixels, layer(pixels))

    app = Flask(__name__)

    @app.post("/predict")
    def predict() -> Any:
        outputs = model.predict(np.array(request.get_json()["instances"], np.float32))
        return jsonify({"predictions": outputs["probabilities"].tolist()})

    return app
