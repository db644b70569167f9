"""gRPC as its users have it: grpcio, TensorFlow Serving's own classes, real workers."""

import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf

from service.security.api_keys import new_key
from tests.integration.models import VERSION_1, publish
from tests.integration.server import (
    DEADLINE_SECONDS,
    PREDICT,
    SHIPPED,
    Server,
    clients_of,
    free_port,
    running,
    wait_for,
    workers,
)
from tests.integration.stores import make_certificate
from tests.integration.test_model_server_command import started
from tests.unit.service.api.grpc import schema

X = [[1.0], [2.0]]


def stub(channel: grpc.Channel, method: str, answer: str, kind: str = "unary_unary") -> Any:
    serialize: Callable[[Any], bytes] = lambda message: message.SerializeToString()  # noqa: E731
    return getattr(channel, kind)(f"/{method}", serialize, schema.message(answer).FromString)


def infer(channel: grpc.Channel, model: str = "regression", **more: Any) -> float:
    request = schema.message("inference.ModelInferRequest")(model_name=model)
    request.inputs.add(name="x", datatype="FP32", shape=[1]).contents.fp32_contents.append(10)
    call = stub(channel, "inference.GRPCInferenceService/ModelInfer", "inference.ModelInferResponse")
    value: float = call(request, timeout=DEADLINE_SECONDS, **more).outputs[0].contents.fp32_contents[0]
    return value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("grpc")


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    return {"grpc_port": free_port()}


@pytest.fixture(scope="module")
def server(folder: Path, ports: dict[str, int]) -> Iterator[Server]:
    publish(VERSION_1, folder / "models" / "regression" / "1")
    publish(SHIPPED / "clothing" / "2", folder / "models" / "clothing" / "2")
    with running(folder / "models", folder / "log", unix_socket=folder / "socket", **ports) as started:
        yield started


@pytest.fixture
def channel(server: Server, ports: dict[str, int]) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{ports['grpc_port']}") as opened:
        yield opened


def test_classes_of_tensorflow_serving(server: Server, channel: grpc.Channel) -> None:
    from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2
    from tensorflow_serving.apis import model_service_pb2_grpc as models
    from tensorflow_serving.apis import prediction_service_pb2_grpc as predictions

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "clothing"
    pixels = np.arange(2 * 28 * 28, dtype=np.float32).reshape(2, 28, 28) % 255
    request.inputs["pixels"].CopyFrom(tf.make_tensor_proto(pixels))
    calls = predictions.PredictionServiceStub(channel)
    answer = calls.Predict(request, timeout=DEADLINE_SECONDS)
    found = tf.make_ndarray(answer.outputs["probabilities"])
    rest = server.request("/v1/models/clothing:predict", {"instances": pixels.tolist()}).json()
    np.testing.assert_allclose(found, rest["predictions"], atol=1e-5)
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    metadata.model_spec.name = "clothing"
    assert "signature_def" in calls.GetModelMetadata(metadata, timeout=DEADLINE_SECONDS).metadata
    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = "clothing"
    states = models.ModelServiceStub(channel).GetModelStatus(status, timeout=DEADLINE_SECONDS).model_version_status
    assert [each.version for each in states] == [2]


@pytest.mark.parametrize("address", ["main port", "own port", "socket"])
def test_every_address_takes_calls(server: Server, ports: dict[str, int], folder: Path, address: str) -> None:
    target = {
        "main port": f"127.0.0.1:{server.port}",
        "own port": f"127.0.0.1:{ports['grpc_port']}",
        "socket": f"unix:{folder / 'socket'}",
    }[address]
    with grpc.insecure_channel(target) as opened:
        assert infer(opened) == pytest.approx(31, abs=0.01)


def test_stream_and_health(channel: grpc.Channel) -> None:
    def requests() -> Iterator[Any]:
        for model in ("regression", "no", "regression"):
            request = schema.message("inference.ModelInferRequest")(model_name=model, id=model)
            request.inputs.add(name="x", datatype="FP32", shape=[1]).contents.fp32_contents.append(10)
            yield request

    method = "inference.GRPCInferenceService/ModelStreamInfer"
    stream = stub(channel, method, "inference.ModelStreamInferResponse", "stream_stream")
    answers = list(stream(requests(), timeout=DEADLINE_SECONDS))
    assert [each.infer_response.id or "error" for each in answers] == ["regression", "error", "regression"]
    assert "Servable not found" in answers[1].error_message
    health = schema.message("grpc.health.v1.HealthCheckRequest")()
    watch = stub(channel, "grpc.health.v1.Health/Watch", "grpc.health.v1.HealthCheckResponse", "unary_stream")
    watched = watch(health)
    assert next(watched).status == 1
    watched.cancel()


def test_large_compressed_message(ports: dict[str, int], server: Server) -> None:
    unlimited = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
    request = schema.message("inference.ModelInferRequest")(model_name="regression")
    request.inputs.add(name="x", datatype="FP32", shape=[5_000_000])
    request.raw_input_contents.append(bytes(20_000_000))
    with grpc.insecure_channel(f"127.0.0.1:{ports['grpc_port']}", options=unlimited) as opened:
        call = stub(opened, "inference.GRPCInferenceService/ModelInfer", "inference.ModelInferResponse")
        options = {"timeout": DEADLINE_SECONDS, "compression": grpc.Compression.Gzip}
        assert len(call(request, **options).raw_output_contents[0]) == 20_000_000
        request.raw_input_contents[0] *= 2
        with pytest.raises(grpc.RpcError) as raised:
            call(request, **options)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_calls_are_counted_and_logged_by_protocol(server: Server, channel: grpc.Channel) -> None:
    labels = 'model="regression",protocol="grpc_v2",status="200",verb="infer",version="1"'
    before = server.sample(f"serving_requests_total{{{labels}}}")
    infer(channel, metadata=(("x-request-id", "mine-1"),))
    assert server.sample(f"serving_requests_total{{{labels}}}") == before + 1
    server.wait_until_logged("GRPC /inference.GRPCInferenceService/ModelInfer 200")
    server.wait_until_logged("request=mine-1")


def test_many_threads_on_one_channel(channel: grpc.Channel) -> None:
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda _: infer(channel), range(320)))
    assert found == [pytest.approx(31, abs=0.01)] * 320


def test_plain_requests_over_http2(server: Server) -> None:
    url = f"http://127.0.0.1:{server.port}"
    command = ["curl", "-s", "--http2-prior-knowledge", "-w", "%{http_version}", "-d", '{"instances": [10.0]}']
    answer = subprocess.run([*command, url + PREDICT], capture_output=True, text=True, check=True).stdout
    assert answer.startswith('{"predictions":[3')
    assert answer.endswith("2")


# Services of their own


class Caller:
    """Calls until it is told to stop. `lost`: calls that got no answer though the service had them."""

    def __init__(self, target: str) -> None:
        self.answered = 0
        self.lost: list[str] = []
        self._target = target
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with grpc.insecure_channel(self._target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            while not self._stop.is_set():
                try:
                    infer(channel)
                except grpc.RpcError as error:
                    if "failed to connect" in (error.details() or ""):
                        return
                    self.lost.append(f"{error.code()} {error.details()}")
                else:
                    self.answered += 1

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(DEADLINE_SECONDS)


def test_no_call_is_lost_when_workers_and_connections_go(models: Path, tmp_path: Path) -> None:
    settings = {"workers": 2, "max_queue_ms": 60_000, "grpc_max_connection_age_seconds": 1}
    with running(models, tmp_path / "log", **settings) as service:
        callers = [Caller(f"127.0.0.1:{service.port}") for _ in range(8)]
        before, seen = set(workers(service)), set[int]()

        def have_had_other_connections() -> bool:
            for worker in workers(service):
                seen.update(clients_of(worker))
            return len(seen) > len(callers)

        def wait_for_calls() -> None:
            counts = [caller.answered for caller in callers]
            wait_for(
                lambda: all(now.answered > count + 20 for now, count in zip(callers, counts, strict=True)),
                lambda: "the calls are not answered",
            )

        try:
            wait_for_calls()
            wait_for(have_had_other_connections, lambda: "no connection is ever retired")
            service.process.send_signal(signal.SIGHUP)
            service.wait_for(lambda: before.isdisjoint(workers(service)), "the workers are not replaced")
            wait_for_calls()
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(DEADLINE_SECONDS) == 0
        finally:
            for caller in callers:
                caller.stop()
    assert [caller.lost for caller in callers] == [[]] * 8


def test_tls_its_renewal_and_keys(models: Path, tmp_path: Path) -> None:
    """One certificate is the service's, the client's and its own issuer's."""
    certificate = make_certificate(tmp_path)
    own_key, public = certificate.read_bytes(), (tmp_path / "public.pem").read_bytes()
    (tmp_path / "ca.pem").write_bytes(public)
    key, digest = new_key()
    (tmp_path / "keys.toml").write_text(f'[keys.alice]\nsha256 = "{digest}"\nscope = "predict"\n')
    files = {"tls_cert": certificate, "tls_key": certificate, "tls_client_ca": tmp_path / "ca.pem"}
    files |= {"api_keys_file": tmp_path / "keys.toml"}
    grpc_port = free_port()
    bearer: dict[str, Any] = {"metadata": (("authorization", f"Bearer {key}"),)}
    with running_with_tls(models, tmp_path / "log", grpc_port=grpc_port, **files) as service:

        def status(credentials: grpc.ChannelCredentials, call: Callable[[grpc.Channel], object]) -> grpc.StatusCode:
            with (
                grpc.secure_channel(f"localhost:{service.port}", credentials) as channel,
                pytest.raises(grpc.RpcError) as raised,
            ):
                call(channel)
            return raised.value.code()

        def load(channel: grpc.Channel) -> None:
            answer = "inference.RepositoryModelLoadResponse"
            request = schema.message("inference.RepositoryModelLoadRequest")()
            stub(channel, "inference.GRPCInferenceService/RepositoryModelLoad", answer)(request, **bearer)

        own = grpc.ssl_channel_credentials(public, own_key, public)
        for port, given in ((service.port, ("authorization", f"Bearer {key}")), (grpc_port, ("x-api-key", key))):
            with grpc.secure_channel(f"localhost:{port}", own) as channel:
                assert infer(channel, metadata=[given]) == pytest.approx(31, abs=0.01)
        nobody = grpc.ssl_channel_credentials(public)
        assert status(nobody, lambda channel: infer(channel, **bearer)) is grpc.StatusCode.UNAVAILABLE
        assert status(own, infer) is grpc.StatusCode.UNAUTHENTICATED
        assert status(own, load) is grpc.StatusCode.PERMISSION_DENIED
        address = ("127.0.0.1", service.port)
        before = ssl.get_server_certificate(address)
        make_certificate(tmp_path)
        wait_for(lambda: ssl.get_server_certificate(address) != before, lambda: "the new certificate is not used")


@contextmanager
def running_with_tls(models: Path, log: Path, **settings: object) -> Iterator[Server]:
    port = free_port()
    given = {"models": models, "port": port, "workers": 1, **settings}
    environment = os.environ | {f"SERVING_{name.upper()}": str(value) for name, value in given.items()}
    with log.open("w") as output:
        command = [sys.executable, "-m", "service"]
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, text=True)
    service = Server(models, port, process, log, port)
    try:
        service.wait_until_logged(f"serves https://127.0.0.1:{port}")
        yield service
    finally:
        process.terminate()
        process.wait(DEADLINE_SECONDS)


def test_command_of_tensorflow_serving_reloads_by_request_and_is_profiled(tmp_path: Path) -> None:
    from tensorflow.python.profiler import profiler_client
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    for name in ("first", "second"):
        publish(VERSION_1, tmp_path / name / "3")
    port = free_port()
    flags = (f"--model_base_path={tmp_path / 'first'}", "--model_name=first", f"--port={port}")
    with started(tmp_path, *flags) as service, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert infer(channel, "first") == pytest.approx(31, abs=0.01)
        method = "tensorflow.serving.ModelService/HandleReloadConfigRequest"
        reload_config = stub(channel, method, "ReloadConfigResponse")
        request = schema.message("ReloadConfigRequest")(metric_names=["/a/metric"])
        config = request.config.model_config_list.config.add(name="regression", base_path="second")
        config.model_platform = "tensorflow"
        with pytest.raises(grpc.RpcError, match="absolute path") as raised:
            reload_config(request, timeout=DEADLINE_SECONDS)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        config.base_path = str(tmp_path / "second")
        config.version_labels["canary"] = 4
        with pytest.raises(grpc.RpcError) as raised:
            reload_config(request, timeout=DEADLINE_SECONDS)
        assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        config.version_labels.clear()
        answer = reload_config(request, timeout=DEADLINE_SECONDS)
        assert (answer.status.error_code, answer.metric[0].name) == (0, "/a/metric")
        service.wait_for(lambda: service.request("/v1/models").json() == {"models": ["regression"]}, "the first stays")
        caller = Caller(f"127.0.0.1:{port}")
        try:
            profiler_client.trace(f"127.0.0.1:{port}", str(tmp_path / "logs"), duration_ms=500)
        finally:
            caller.stop()
        assert caller.lost == []
    (file,) = (tmp_path / "logs").rglob("*.xplane.pb")
    (plane,) = xplane_pb2.XSpace.FromString(file.read_bytes()).planes
    names = {event.name for event in plane.event_metadata.values()}
    assert names == {"profile", "grpc_v2 infer", "queue", "decode", "inference", "encode"}
