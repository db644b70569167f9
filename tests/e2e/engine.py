"""A container engine, and what the containers answer."""

import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import pytest
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tests.integration.server import ROOT

# Of the regression, for TEN.
ABOUT_31 = {"predictions": [pytest.approx(31, abs=0.01)]}
ASK_INSIDE = """
import sys, urllib.request
_, path, body = sys.argv
print(urllib.request.urlopen(f"http://127.0.0.1:8501{path}", body.encode() or None).read().decode())
"""


def docker(*arguments: str, env: Mapping[str, str] | None = None, check: bool = True) -> str:
    """Runs `docker ...` from the repository's root and gives what it printed; a failure shows its errors."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, cwd=ROOT, env=env)
    if check and done.returncode:
        pytest.fail(f"docker {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return (done.stdout + done.stderr).strip()


def port_in(printed: str) -> int:
    """Of an address as `docker port` prints it."""
    return int(printed.splitlines()[0].rpartition(":")[2])


def ask_inside(container: str, path: str, body: str = "") -> str:
    """What the service answers to a process in its own container."""
    return docker("exec", container, "python", "-c", ASK_INSIDE, path, body)


def predicted(port: int, model: str, credentials: grpc.ChannelCredentials | None = None) -> float:
    """By gRPC, for 10. `credentials`: of TLS; without them the port speaks none."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.inputs["x"].dtype = types_pb2.DT_FLOAT
    request.inputs["x"].tensor_shape.dim.add().size = 1
    request.inputs["x"].float_val.append(10)
    address = f"127.0.0.1:{port}"
    with grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        value: float = stub.Predict(request, timeout=60).outputs["y"].float_val[0]
    return value


def wait_until(probe: Callable[[], Any], is_right: Callable[[Any], bool] = bool, what: str = "") -> Any:
    """Asks `probe` until `is_right` takes its answer, and gives that; fails with the last answer."""
    deadline = time.monotonic() + 120
    while True:
        try:
            answer = probe()
        except OSError as error:
            # Nobody listens there yet, or no longer.
            answer = error
        if not isinstance(answer, OSError) and is_right(answer):
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come in time; last: {answer!r}")
        time.sleep(0.25)
