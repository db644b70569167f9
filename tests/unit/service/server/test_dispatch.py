"""Where a request is answered, on the event loop or in a thread, and what happens on the way."""

import asyncio
import gzip
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from math import inf
from pathlib import Path

import msgspec
import numpy as np
import orjson
import pytest
from PIL import Image

from service import App, create_app
from service.api.routes import table_of
from service.errors import InvalidRequest
from service.http import Request, Response
from service.inference.context import RequestContext
from service.inference.infer import Inference
from service.inference.pace import Pace
from service.inference.version import LoadedVersion, State, VersionStatus
from service.lifecycle.policies import ModelPolicy, Policies
from service.server.dispatch import MAX_TICK_REQUESTS, MIN_LONG_TICK_REQUESTS
from service.server.executor import Executor, Job, ThreadPool
from service.serving_config import ServingConfig
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE, Signature
from tests.unit.service.fakes import (
    Arrays,
    FakeEngine,
    RunFunction,
    batcher,
    echo,
    make_available,
    patient_settings,
    quick,
    request,
    signature,
    tensor,
    tick_batcher,
)
from tests.unit.service.held import MAX_SECONDS, Held

V1, V2 = b"/v1/models/model:predict", b"/v2/models/model/infer"
ROWS = signature({"x": tensor("DT_FLOAT", -1)}, {"y": tensor("DT_FLOAT", -1)})
STRINGS = signature({"x": tensor("DT_STRING", -1)})
PICTURES = signature({"x": tensor("DT_UINT8", -1, 8, 8, 3)})
RAW = {b"content-type": b"application/octet-stream", b"inference-header-content-length": b"0"}
GZIP = {b"accept-encoding": b"gzip"}


@dataclass
class Bench:
    """`jobs`: of threads, by their models."""

    app: App
    jobs: list[str]

    def add(
        self,
        of: Signature = ROWS,
        answer: RunFunction = echo,
        pace: Pace | None = None,
        *,
        in_threads: bool = True,
        in_ticks: bool = False,
    ) -> FakeEngine:
        """A version for the event loop, or of this pace; with these batchers."""
        engine = FakeEngine({DEFAULT_SIGNATURE: of}, answer)
        loaded = LoadedVersion(
            "model",
            1,
            engine,
            ServingConfig(),
            batcher(engine) if in_threads else None,
            tick_batcher(engine) if in_ticks else None,
            pace=pace or quick(),
        )
        make_available(self.app.registry, loaded)
        return engine

    def dispatch(self, *requests: Request) -> "list[asyncio.Future[Response]]":
        """In one tick."""
        responses = [self.app.dispatcher.dispatch(request) for request in requests]
        return [response for response in responses if isinstance(response, asyncio.Future)]

    async def respond(self, request: Request) -> Response:
        response = self.app.dispatcher.dispatch(request)
        return response if isinstance(response, Response) else await asyncio.wait_for(response, MAX_SECONDS)

    def respond_at_once(self, request: Request) -> Response:
        response = self.app.dispatcher.dispatch(request)
        assert isinstance(response, Response)
        return response

    def sample(self, name: str, **labels: str) -> float | None:
        return self.app.metrics.registry.get_sample_value(name, labels)


Make = Callable[..., Bench]


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    submit = ThreadPool.submit

    def note(pool: ThreadPool, name: str, work: Callable[[], None]) -> Job:
        names.append(name)
        return submit(pool, name, work)

    monkeypatch.setattr(ThreadPool, "submit", note)
    return names


def scanned(models: Path, **settings: int | str) -> App:
    app = create_app(patient_settings(models, **settings))
    app.watcher.scan()
    return app


@pytest.fixture
def make(tmp_path: Path, jobs: list[str]) -> Iterator[Make]:
    made: list[Bench] = []

    def make_bench(**settings: int | str) -> Bench:
        made.append(Bench(scanned(tmp_path, **settings), jobs))
        return made[-1]

    yield make_bench
    for at in made:
        at.app.dispatcher.close()


@pytest.fixture
def at(make: Make) -> Bench:
    return make()


@pytest.fixture(scope="module")
def shared_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    app = scanned(tmp_path_factory.mktemp("models"))
    yield app
    app.dispatcher.close()


@pytest.fixture
def shared(shared_app: App, jobs: list[str]) -> Bench:
    """For tests that read no metrics and change nothing but the version."""
    return Bench(shared_app, jobs)


def predict(*values: object, path: bytes = V1, headers: Mapping[bytes, bytes] | None = None) -> Request:
    return request(path, orjson.dumps({"instances": values or [1.0]}), headers=headers)


def infer(size: int = 1) -> Request:
    """Raw input: the body is the tensor."""
    return request(V2, bytes(4 * size), headers=RAW)


def arriving_now(made_before: Request) -> Request:
    headers = dict(made_before.headers)
    return msgspec.structs.replace(made_before, headers=headers, context=RequestContext(headers))


def picture(width: int, format_: str = "PNG") -> Request:
    Image.new("L", (width, width)).save(file := BytesIO(), format_)
    return request(V1, file.getvalue(), content_type=f"image/{format_.lower()}")


def ones(rows: int) -> RunFunction:
    return lambda _: {"y": np.ones(rows, np.float32)}


def double(inputs: Arrays) -> dict[str, Array]:
    """The model refuses negative values."""
    if (inputs["x"] < 0).any():
        raise InvalidRequest("negative")
    return {"y": inputs["x"] * 2}


OF_V1 = {"model": "model", "version": "1", "protocol": "v1", "verb": "predict"}
OF_V2 = OF_V1 | {"protocol": "v2", "verb": "infer"}


# Where a request is answered

JSON = b'{"instances": [1.0]}'
PLACES = {
    "JSON": (ROWS, predict(), False),
    "no such model": (ROWS, predict(path=b"/v1/models/nowhere:predict"), False),
    "no such route": (ROWS, request(b"/nowhere", method="GET"), False),
    "long JSON": (ROWS, request(V1, JSON.ljust(200_000)), True),
    "encoded": (ROWS, request(V1, gzip.compress(JSON), headers={b"content-encoding": b"gzip"}), True),
    "binary": (ROWS, infer(100_000), False),
    "long binary": (ROWS, infer(400_000), True),
    "other route": (ROWS, request(b"/v1/models", method="GET"), True),
    "form": (ROWS, request(V1, content_type="multipart/form-data"), True),
    "strings": (STRINGS, predict(*[""] * 3), False),
    "many strings": (STRINGS, predict(*[""] * 10_000), True),
    "picture": (PICTURES, picture(8), False),
    "many pixels": (PICTURES, picture(300), True),
    "GIF": (PICTURES, picture(8, "GIF"), False),
    "TIFF, which may have a profile": (PICTURES, picture(8, "TIFF"), True),
    "long picture": (PICTURES, request(V1, b"x" * 20_000, content_type="image/png"), True),
    "b64": (PICTURES, predict({"b64": ""}), True),
    "b64 in escapes": (PICTURES, request(V1, rb'{"instances": [{"\u006264": ""}]}'), True),
}


@pytest.mark.parametrize(("of", "request_", "by_thread"), PLACES.values(), ids=PLACES)
async def test_slow_requests_take_a_thread(shared: Bench, of: Signature, request_: Request, by_thread: bool) -> None:
    shared.add(of)
    assert (await shared.respond(arriving_now(request_))).status in (200, 400, 404)
    assert len(shared.jobs) == by_thread


@pytest.mark.parametrize(("of", "body", "jobs"), [(ROWS, b"1.0", []), (PICTURES, b'{"b64": ""}', ["model"])])
async def test_request_whose_path_names_no_model(make: Make, of: Signature, body: bytes, jobs: list[str]) -> None:
    at = make(sagemaker="on")
    at.add(of)
    invocation = request(b"/invocations", body)
    invocation.match = table_of(at.app.settings).find("POST", b"/invocations")
    await at.respond(invocation)
    assert at.jobs == jobs


@pytest.mark.parametrize(
    ("pace", "rows", "by_thread"), [(Pace(), 1, True), (Pace(0.0005), 2, False), (Pace(0.0005), 3, True)]
)
async def test_slow_model_and_rows_that_are_slow_together_take_a_thread(
    shared: Bench, pace: Pace, rows: int, by_thread: bool
) -> None:
    shared.add(answer=double, pace=pace)
    response = await shared.respond(predict(*[1.0] * rows))
    assert orjson.loads(response.body) == {"predictions": [2.0] * rows}
    response = await shared.respond(predict(*[-1.0] * rows))
    assert (response.status, response.body) == (400, b'{"error":"negative"}')
    assert shared.jobs == ["model"] * (2 * by_thread)


@pytest.mark.parametrize(
    ("rows", "sent", "by_thread"),
    [
        (10_000, predict(), False),
        (20_000, predict(), True),
        (1_000, predict(headers=GZIP), False),
        (3_000, predict(headers=GZIP), True),
        (20_000, infer(), False),
    ],
    ids=["short", "long", "short and encoded", "long and encoded", "binary"],
)
async def test_long_outputs_take_a_thread(shared: Bench, rows: int, sent: Request, by_thread: bool) -> None:
    shared.add(answer=ones(rows))
    response = await shared.respond(arriving_now(sent))
    assert (response.status, len(shared.jobs)) == (200, by_thread)
    assert (("content-encoding", "gzip") in response.headers) is (by_thread and b"accept-encoding" in sent.headers)


async def test_client_that_leaves_while_its_outputs_are_encoded(at: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    at.add(answer=ones(20_000))
    encoded: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(Executor, "respond", lambda *_: encoded)
    (response,) = at.dispatch(predict())
    await asyncio.sleep(0)
    response.cancel()
    await asyncio.sleep(0)
    assert encoded.cancelled()


async def test_model_unloaded_meanwhile_is_awaited_in_a_thread(at: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, registry = at.add(), at.app.registry
    # What is_quick saw no longer holds when the version is looked for.
    loaded = registry.get("model")
    registry.set_policies(Policies(default=ModelPolicy(load="on_demand")))
    registry.set_status("model", 1, VersionStatus(State.START))
    monkeypatch.setattr(registry, "is_quick", lambda *_: True)
    registry.when_wanted(lambda _model: make_available(registry, loaded))
    assert (await at.respond(predict())).status == 200
    assert len(engine.runs) == len(at.jobs) == 1


# Operations


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_health_takes_no_thread(shared: Bench, method: str) -> None:
    for target in (b"/v2/health/live", b"/v2/health/ready"):
        assert shared.respond_at_once(request(target, method=method)).status == 200


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/metrics", "respond_apart"),
        (b"/v1/models/model/metadata", "respond"),
        (b"/v1/%6dodels/model/metadata", "respond"),
    ],
)
def test_routes_that_wait_for_models_take_no_thread_of_operations(
    shared: Bench, monkeypatch: pytest.MonkeyPatch, target: bytes, expected: str
) -> None:
    for name in ("respond", "respond_apart"):
        monkeypatch.setattr(Executor, name, lambda *_, name=name: name)
    taken: object = shared.app.dispatcher.dispatch(request(target, method="GET"))
    assert taken == expected


@pytest.mark.parametrize("target", [b"/v2/health/ready", b"/metrics"])
async def test_operations_have_no_default_deadline(make: Make, target: bytes) -> None:
    late = request(target, method="GET")
    late.context.arrived -= 1
    assert (await make(request_timeout_ms=1).respond(late)).status == 200


@pytest.mark.parametrize(
    ("target", "headers", "seconds"),
    [
        (b"/v2/repository/models/model/load", {}, inf),
        (b"/v2/repository/models/model/load", {b"x-request-timeout-ms": b"5000"}, 5),
        (b"/v2/repository/index", {}, 30),
    ],
)
async def test_loading_has_no_default_deadline(
    shared: Bench, target: bytes, headers: dict[bytes, bytes], seconds: float
) -> None:
    sent = request(target, headers=headers)
    await shared.respond(sent)
    assert sent.context.deadline is not None
    assert sent.context.deadline.at - sent.context.arrived == pytest.approx(seconds)


@pytest.mark.parametrize("sent", [predict(), request(b"/v1/models", method="GET")])
def test_invalid_deadline_is_400(at: Bench, sent: Request) -> None:
    sent.headers[b"x-request-timeout-ms"] = b"soon"
    response = at.respond_at_once(sent)
    assert (response.status, at.sample("serving_rejected_total", reason="malformed")) == (400, 1)
    assert b"X-Request-Timeout-Ms is 'soon'" in response.body


@pytest.mark.parametrize("target", [b"/metrics", b"/%0A1970%1B[2J"])
async def test_bug_is_500_with_its_request_in_the_log(
    at: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, target: bytes
) -> None:
    monkeypatch.setattr(at.app.flask, "wsgi_app", lambda environ, start: 1 / 0)
    sent = request(target, headers={b"x-request-id": b"mine"})
    sent.match = request(b"/metrics", method="GET").match
    assert (await at.respond(sent)).status == 500
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    # No path can forge a line of the log.
    assert record.getMessage() == f"POST {target.decode()} failed (request mine)"


async def test_rejections_are_sent_at_a_bounded_rate(at: Bench) -> None:
    rejection = Response(401, b"no key")
    rejections = [at.app.dispatcher.reject(rejection, predict()) for _ in range(2000)]
    assert rejections[0] is rejection
    assert isinstance(rejections[-1], asyncio.Future)


# Ticks of the event loop


async def test_requests_of_a_tick_run_together(at: Bench) -> None:
    engine = at.add(answer=double, in_ticks=True)
    responses = await asyncio.gather(*at.dispatch(*(predict(number) for number in range(5))))
    assert [orjson.loads(one.body) for one in responses] == [{"predictions": [2.0 * n]} for n in range(5)]
    assert [inputs["x"].tolist() for _, inputs in engine.runs] == [[0, 1, 2, 3, 4]]
    assert at.sample("serving_request_duration_seconds_count", **OF_V1) == 5


@pytest.mark.parametrize(("in_ticks", "runs"), [(True, 4), (False, 3)])
async def test_bad_request_of_a_tick_fails_alone(at: Bench, in_ticks: bool, runs: int) -> None:
    engine = at.add(answer=double, in_ticks=in_ticks)
    responses = await asyncio.gather(*at.dispatch(predict(1), predict(-1), predict([1.0]), predict(3)))
    assert [one.status for one in responses] == [200, 400, 400, 200]
    assert orjson.loads(responses[3].body) == {"predictions": [6.0]}
    assert len(engine.runs) == runs


async def test_bug_in_a_tick_is_500_for_each(at: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    at.add()
    monkeypatch.setattr(Inference, "infer", lambda *_: 1 / 0)
    responses = await asyncio.gather(*at.dispatch(predict(1), predict(2)))
    assert [one.status for one in responses] == [500, 500]


async def test_tick_is_bounded(at: Bench) -> None:
    engine = at.add()
    for _ in range(MAX_TICK_REQUESTS):
        assert not engine.runs
        (last,) = at.dispatch(predict())
    assert len(engine.runs) == MAX_TICK_REQUESTS
    assert last.done()


async def test_request_that_nobody_waits_for_in_its_tick_is_not_run(at: Bench) -> None:
    engine = at.add()
    expired, left, stays = (predict(headers={b"x-request-timeout-ms": b"5000"}) for _ in range(3))
    expired.context.arrived -= 6
    responses = at.dispatch(expired, left, stays)
    responses[1].cancel()
    late, _, in_time = await asyncio.gather(*responses, return_exceptions=True)
    assert isinstance(late, Response)
    assert isinstance(in_time, Response)
    assert (late.status, in_time.status, len(engine.runs)) == (504, 200, 1)
    assert b"5000 ms (X-Request-Timeout-Ms); it was waiting for its turn" in late.body
    for reason in ("deadline", "client_left"):
        assert at.sample("serving_rejected_total", reason=reason) == 1


@pytest.mark.parametrize(
    ("read_before", "waited_ms", "status"),
    [
        (MIN_LONG_TICK_REQUESTS, 201, 429),
        (MIN_LONG_TICK_REQUESTS, 199, 200),
        (MIN_LONG_TICK_REQUESTS - 1, 201, 200),
    ],
    ids=["too late", "in time", "machine stood still"],
)
async def test_request_that_is_late_in_its_tick_is_429(
    make: Make, read_before: int, waited_ms: int, status: int
) -> None:
    def arriving(moment: float) -> Request:
        sent = predict()
        sent.context.arrived = moment
        return sent

    at = make(max_queue_ms=200)
    engine = at.add()
    # In one tick: nothing is awaited.
    before = at.dispatch(*(arriving(1000.0) for _ in range(read_before)))
    late = await at.respond(arriving(1000.0 + waited_ms / 1000))
    assert late.status == status
    assert (b"200 ms (SERVING_MAX_QUEUE_MS)" in late.body) is (status == 429)
    assert [(await response).status for response in before] == [200] * read_before
    assert len(engine.runs) == read_before + (status == 200)
    # The next tick begins anew.
    await asyncio.sleep(0)
    assert (await at.respond(arriving(1001.0))).status == 200


# Versions that hang


@pytest.mark.parametrize("is_batched", [False, True])
@pytest.mark.parametrize(("sent", "labels"), [(predict(), OF_V1), (infer(), OF_V2)], ids=["v1", "v2"])
async def test_hanging_request_is_504_at_its_deadline(
    at: Bench, sent: Request, labels: dict[str, str], is_batched: bool
) -> None:
    # Other tests' threads stay.
    others = set(threading.enumerate())
    held = Held()

    def run(inputs: Arrays) -> dict[str, Array]:
        held()
        return echo(inputs)

    at.add(ROWS, run, Pace(1.0), in_threads=is_batched)
    arrived = arriving_now(sent)
    arrived.headers[b"x-request-timeout-ms"] = b"100"
    (pending,) = at.dispatch(arrived)
    held.wait_for_calls()
    assert (await pending).status == 504
    assert at.sample("serving_requests_total", **labels, status="504") == 1
    assert at.sample("serving_rejected_total", reason="deadline") == 1
    assert (arrived.context.run_seconds > 0, arrived.context.batch_size) == (True, 1)
    held.release()
    at.app.dispatcher.close()
    for thread in set(threading.enumerate()) - others:
        thread.join(MAX_SECONDS)
    # Its late response is neither sent nor counted.
    assert at.sample("serving_requests_total", **labels, status="200") is None
    assert at.sample("serving_request_duration_seconds_count", **labels) == 1


@pytest.mark.parametrize(
    ("sent", "labels"),
    [
        (predict(), OF_V1),
        (predict(path=b"/v1/models/model/versions/1:predict"), OF_V1),
        (infer(), OF_V2),
    ],
    ids=["v1", "version", "v2"],
)
@pytest.mark.parametrize("pace", [Pace(), quick()])
async def test_unhealthy_version_is_503_without_a_thread(
    at: Bench, sent: Request, labels: dict[str, str], pace: Pace
) -> None:
    engine = at.add(pace=pace)
    at.app.registry.get("model").health.is_healthy = False
    response = at.respond_at_once(arriving_now(sent))
    assert (response.status, response.headers) == (503, (("retry-after", "5"),))
    assert b"its runs do not end; it gets requests again once they have ended" in response.body
    assert (engine.runs, at.jobs) == ([], [])
    assert at.sample("serving_requests_total", **labels, status="503") == 1


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (predict(path=b"/v1/models/model/versions/%s:predict" % (b"9" * 30)), 400),
        (request(b"/v2/models/model/ready", method="GET"), 503),
    ],
    ids=["invalid version", "ready"],
)
async def test_other_requests_for_an_unhealthy_model(at: Bench, sent: Request, status: int) -> None:
    at.add(pace=Pace())
    at.app.registry.get("model").health.is_healthy = False
    assert (await at.respond(arriving_now(sent))).status == status
