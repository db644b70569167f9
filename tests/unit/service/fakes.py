"""Stand-ins for what is slow or heavy: an engine, and a whole service over such engines."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
from werkzeug.datastructures import Headers
from werkzeug.test import EnvironBuilder, TestResponse
from werkzeug.wrappers import Request as WerkzeugRequest

from service import App
from service.api.routes import TABLE
from service.engines.base import Engine
from service.http import Request
from service.inference.batching import Batcher, BatchLimits, Independence, TickBatcher, is_batchable
from service.inference.context import RequestContext
from service.inference.pace import Pace
from service.inference.version import LoadedVersion, State, VersionStatus
from service.lifecycle.registry import Registry
from service.server.connection import Connections, HttpConnection
from service.serving_config import ServingConfig
from service.settings import Settings
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE, Signature, TensorSpec

Arrays = Mapping[str, Array]
RunFunction = Callable[[Arrays], dict[str, Array]]


@dataclass
class FakeEngine:
    """Returns what `answer` makes of the inputs, and keeps its runs: signature and inputs of each."""

    signatures: Mapping[str, Signature]
    answer: RunFunction
    name: str = "fake"
    runs: list[tuple[str, Arrays]] = field(default_factory=list)
    runs_on_caller: bool = True
    releases: int = 0

    def release(self) -> None:
        self.releases += 1

    def run(self, signature: str, inputs: Arrays) -> dict[str, Array]:
        self.runs.append((signature, inputs))
        return self.answer(inputs)


def tensor(dtype: str, *shape: int) -> TensorSpec:
    return TensorSpec("tensor:0", dtype, shape)


def any_shape(dtype: str) -> TensorSpec:
    return TensorSpec("tensor:0", dtype, None)


def signature(inputs: dict[str, TensorSpec], outputs: dict[str, TensorSpec] | None = None) -> Signature:
    return Signature("tensorflow/serving/predict", inputs, outputs or {"y": any_shape("DT_FLOAT")})


def echo(inputs: Arrays) -> dict[str, Array]:
    return {"y": next(iter(inputs.values()))}


def independent(signatures: Mapping[str, Signature]) -> Independence:
    """All whose shapes allow it."""
    return Independence([name for name, of in signatures.items() if is_batchable(of)])


class Unobserved:
    """A BatchObserver that ignores what batches report."""

    def ran(self, rows: int) -> None:
        pass

    def waited(self, seconds: float) -> None:
        pass

    def queued(self, rows: int) -> None:
        pass

    def contradicted(self) -> None:
        pass


def batcher(engine: Engine, max_batch_size: int = 8, timeout_seconds: float = 0) -> Batcher:
    limits = BatchLimits(max_batch_size, timeout_seconds)
    return Batcher(engine.run, engine.signatures, independent(engine.signatures), limits, Unobserved())


def tick_batcher(engine: Engine) -> TickBatcher:
    return TickBatcher(engine.run, engine.signatures, independent(engine.signatures), 8, Unobserved())


def quick() -> Pace:
    """Of what the event loop runs."""
    return Pace(0.0)


def loaded_version(
    of: Signature,
    answer: RunFunction = echo,
    config: ServingConfig | None = None,
    *,
    model: str = "model",
    version: int = 1,
) -> LoadedVersion:
    engine = FakeEngine({DEFAULT_SIGNATURE: of}, answer)
    return LoadedVersion(model, version, engine, config or ServingConfig(), pace=quick())


def make_available(registry: Registry, loaded: LoadedVersion) -> None:
    status = VersionStatus(State.AVAILABLE, engine=loaded.engine.name, load_seconds=0.5)
    registry.set_status(loaded.model, loaded.version, status, loaded)


def patient_settings(models: Path, **settings: Any) -> Settings:
    """However slow the machine, nobody is refused for that."""
    return Settings(**{"models": str(models), "max_queue_ms": 60_000, **settings})


@dataclass
class FakeService:
    """A service made by create_app, whose models are fakes."""

    app: App

    @property
    def registry(self) -> Registry:
        return self.app.registry

    def add(
        self,
        of: Signature,
        answer: RunFunction = echo,
        config: ServingConfig | None = None,
        *,
        model: str = "model",
        version: int = 1,
    ) -> FakeEngine:
        loaded = loaded_version(of, answer, config, model=model, version=version)
        make_available(self.registry, loaded)
        assert isinstance(loaded.engine, FakeEngine)
        return loaded.engine

    def get(self, path: str) -> TestResponse:
        return self._exchange(EnvironBuilder(path))

    def post(
        self,
        path: str,
        body: object = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> TestResponse:
        """`body`: bytes as they are, anything else as JSON."""
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        builder = EnvironBuilder(
            path, method="POST", data=data, content_type=content_type, headers=(headers or {}).items()
        )
        return self._exchange(builder)

    def post_form(self, path: str, form: Mapping[str, Any]) -> TestResponse:
        return self._exchange(EnvironBuilder(path, method="POST", data=form, content_type="multipart/form-data"))

    def _exchange(self, builder: EnvironBuilder) -> TestResponse:
        return asyncio.run(exchange(self.app, builder.get_request()))

    def sample(self, line: str) -> str | None:
        """What /metrics says for a series; None where it has no such line."""
        for found in self.get("/metrics").text.splitlines():
            series, _, value = found.rpartition(" ")
            if series == line:
                return value
        return None


class FakeTransport(asyncio.Transport):
    """Keeps what is written; `closed` is set once the connection is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_reading_paused = False
        self.is_aborted = False
        self.unread_bytes = 0
        self.closed = asyncio.Event()

    def write(self, data: Any) -> None:
        assert not self.closed.is_set(), f"written after the end: {data!r}"
        self.written += data

    def close(self) -> None:
        self.closed.set()

    def abort(self) -> None:
        self.is_aborted = True
        self.closed.set()

    def is_closing(self) -> bool:
        return self.closed.is_set()

    def get_write_buffer_size(self) -> int:
        return self.unread_bytes

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False


def raw_request(request: WerkzeugRequest) -> bytes:
    """As it goes over the wire, on a connection of its own."""
    body = request.get_data()
    headers = {**dict(request.headers), "Content-Length": str(len(body)), "Connection": "close"}
    target = quote(request.environ["PATH_INFO"].encode("latin-1"))
    if request.query_string:
        target += "?" + quote(request.query_string, safe="=&%+")
    lines = [f"{request.method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


async def exchange(app: App, request: WerkzeugRequest) -> TestResponse:
    """The response on a connection of its own."""
    connection = HttpConnection(app.dispatcher, Connections(), app.settings.max_body_bytes, app.admits[0])
    transport = FakeTransport()
    connection.connection_made(transport)
    connection.data_received(raw_request(request))
    await transport.closed.wait()
    head, _, body = transport.written.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
    assert dict(headers)["content-length"] == str(len(body))
    return TestResponse([body], status_line.split(" ", 1)[1], Headers(headers), request)


def request(
    target: bytes = b"/",
    body: bytes = b"",
    *,
    method: str = "POST",
    content_type: str = "",
    headers: Mapping[bytes, bytes] | None = None,
) -> Request:
    """As the parser makes it, with its route."""
    own = {b"content-type": content_type.encode()} if content_type else {}
    made = Request(method, target, {**own, **(headers or {})}, RequestContext(headers or {}, len(body)), body)
    made.match = TABLE.find(method, target)
    return made


def error(response: TestResponse) -> str:
    """An error answer's sentence; fails where the answer is no such JSON object."""
    assert response.mimetype == "application/json"
    body = orjson.loads(response.data)
    assert list(body) == ["error"]
    assert isinstance(body["error"], str)
    return body["error"]
