"""Which road a request takes, and what happens when too many want the same one."""

import asyncio
import gzip
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from io import BytesIO
from math import inf
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest
from PIL import Image

from service import App, create_app
from service.errors import InvalidRequest
from service.http import Request, Response
from service.inference.batching import Batcher, BatchLimits, Independence
from service.inference.context import RequestContext
from service.inference.health import Health, Tolerance
from service.inference.infer import Inference
from service.inference.pace import Pace
from service.inference.version import LoadedVersion, State, VersionStatus
from service.lifecycle.policies import ModelPolicy, Policies
from service.server.dispatch import MAX_TICK_REQUESTS, MIN_LONG_TICK_REQUESTS
from service.server.executor import Executor, Job, ThreadPool
from service.serving_config import ServingConfig
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE
from tests.unit.service.fakes import (
    FakeEngine,
    Unobserved,
    any_shape,
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

ADDRESS = ("127.0.0.1", 8501)
OF = signature({"x": tensor("DT_FLOAT", -1)})
ROWS = signature({"x": tensor("DT_FLOAT", -1)}, {"y": tensor("DT_FLOAT", -1)})


def make_app(tmp_path: Path, **settings: int) -> App:
    app = create_app(patient_settings(tmp_path, **settings))
    app.watcher.scan()
    return app


def add(app: App, engine: FakeEngine, *, is_quick: bool) -> None:
    pace = quick() if is_quick else Pace()
    loaded = LoadedVersion("model", 1, engine, ServingConfig(), batcher(engine), pace=pace)
    make_available(app.registry, loaded)


def predict(body: bytes = b'{"instances": [1.0]}', path: bytes = b"/v1/models/model:predict") -> Request:
    return request(path, body, content_type="application/json")


def arrives_now(request: Request, **headers: bytes) -> Request:
    """A parameter of a test was made long before."""
    named = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    return msgspec.structs.replace(request, headers={**request.headers, **named}, context=RequestContext())


def infer(values: Array) -> Request:
    """Raw input: the body is the tensor."""
    headers = {b"content-type": b"application/octet-stream", b"inference-header-content-length": b"0"}
    return request(b"/v2/models/model/infer", values.tobytes(), headers=headers)


class CountingPool(ThreadPool):
    submitted = 0

    def submit(self, name: str, work: Callable[[], None]) -> Job:
        CountingPool.submitted += 1
        return super().submit(name, work)


@pytest.mark.parametrize(
    ("request_", "is_quick", "by_thread"),
    [
        (predict(), True, False),
        (predict(), False, True),
        (predict(b'{"instances": [1.0]}'.ljust(200_000)), True, True),
        (infer(np.zeros(100_000, np.float32)), True, False),
        (infer(np.zeros(400_000, np.float32)), True, True),
        (predict(path=b"/v1/models/nowhere:predict"), True, False),
        (request(b"/v1/models", method="GET"), True, True),
        (request(b"/v1/models/model:predict", content_type="multipart/form-data"), True, True),
    ],
    ids=["quick model", "slow model", "long JSON", "binary", "long binary", "no such model", "other route", "form"],
)
def test_what_is_quick_is_answered_by_the_loop_and_the_rest_by_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_: Request, is_quick: bool, by_thread: bool
) -> None:
    monkeypatch.setattr("service.server.executor.ThreadPool", CountingPool)
    monkeypatch.setattr(CountingPool, "submitted", 0)

    async def scenario() -> None:
        app = make_app(tmp_path)
        add(app, FakeEngine({DEFAULT_SIGNATURE: OF}, echo), is_quick=is_quick)
        dispatcher = app.dispatcher
        answer = dispatcher.dispatch(arrives_now(request_))
        assert (answer if isinstance(answer, Response) else await answer).status in (200, 400, 404)
        assert CountingPool.submitted == by_thread
        dispatcher.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("key", [b"b64", rb"\u006264"])
def test_a_picture_within_json_is_unpacked_by_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: bytes
) -> None:
    monkeypatch.setattr("service.server.executor.ThreadPool", CountingPool)
    monkeypatch.setattr(CountingPool, "submitted", 0)

    async def scenario() -> None:
        app = make_app(tmp_path)
        add(
            app, FakeEngine({DEFAULT_SIGNATURE: signature({"x": tensor("DT_UINT8", -1, 8, 8, 3)})}, echo), is_quick=True
        )
        dispatcher = app.dispatcher
        answer = dispatcher.dispatch(arrives_now(predict(b'{"instances": [{"%s": ""}]}' % key)))
        assert not isinstance(answer, Response)
        assert b"instances[0] is not a picture" in (await answer).body
        assert CountingPool.submitted == 1
        dispatcher.close()

    asyncio.run(scenario())


def test_options_of_the_service_as_a_whole_are_answered(tmp_path: Path) -> None:
    async def scenario() -> None:
        dispatcher = make_app(tmp_path).dispatcher
        answer = dispatcher.dispatch(request(b"*", method="OPTIONS"))
        assert isinstance(answer, Response)
        assert (answer.status, answer.headers) == (200, (("allow", "GET, HEAD, OPTIONS, POST"),))
        dispatcher.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("target", "apart"),
    [
        (b"/metrics", True),
        (b"/v1/models/model/metadata", False),
        (b"/v1/%6dodels/model/metadata", False),
    ],
)
def test_what_may_wait_for_a_model_takes_no_thread_of_health_and_metrics_however_its_path_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: bytes, apart: bool
) -> None:
    async def scenario() -> None:
        dispatcher = make_app(tmp_path).dispatcher
        for way in ("respond", "respond_apart"):
            monkeypatch.setattr(Executor, way, lambda *_, way=way: way)
        taken: object = dispatcher.dispatch(request(target, method="GET"))
        assert taken == ("respond_apart" if apart else "respond")
        dispatcher.close()

    asyncio.run(scenario())


def test_health_and_metrics_are_answered_however_little_time_requests_have(tmp_path: Path) -> None:
    async def scenario() -> None:
        dispatcher = make_app(tmp_path, request_timeout_ms=1).dispatcher
        for target in (b"/v2/health/ready", b"/metrics"):
            long_ago = RequestContext()
            long_ago.arrived -= 1
            answer = dispatcher.dispatch(msgspec.structs.replace(request(target, method="GET"), context=long_ago))
            assert (answer if isinstance(answer, Response) else await answer).status == 200
        dispatcher.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("target", "is_ready", "expected"),
    [
        (b"/v2/health/live", True, (200, {"live": True, "ready": True})),
        (b"/v2/health/live", False, (200, {"live": True, "ready": False})),
        (b"/v2/health/ready", True, (200, {"live": True, "ready": True})),
        (b"/v2/health/ready", False, (503, {"live": True, "ready": False})),
    ],
)
def test_health_waits_for_no_thread(
    tmp_path: Path, target: bytes, is_ready: bool, expected: tuple[int, dict[str, bool]]
) -> None:
    app = make_app(tmp_path)
    app.registry.draining = not is_ready
    dispatcher = app.dispatcher
    for method in ("GET", "HEAD"):
        answer = dispatcher.dispatch(request(target, method=method))
        assert isinstance(answer, Response)
        assert (answer.status, orjson.loads(answer.body)) == expected


@pytest.mark.parametrize(
    ("rows", "headers", "by_thread"),
    [
        (10_000, {}, False),
        (20_000, {}, True),
        (1_000, {b"accept-encoding": b"gzip"}, False),
        (3_000, {b"accept-encoding": b"gzip"}, True),
        (20_000, {b"inference-header-content-length": b"0"}, False),
    ],
    ids=["short", "long", "short and packed", "long and packed", "binary"],
)
def test_long_answers_are_written_by_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, headers: dict[bytes, bytes], by_thread: bool
) -> None:
    monkeypatch.setattr("service.server.executor.ThreadPool", CountingPool)
    monkeypatch.setattr(CountingPool, "submitted", 0)

    async def scenario() -> None:
        app = make_app(tmp_path)
        add(app, FakeEngine({DEFAULT_SIGNATURE: ROWS}, lambda _: {"y": np.ones(rows, np.float32)}), is_quick=True)
        dispatcher = app.dispatcher
        request = infer(np.zeros(1, np.float32)) if b"inference-header-content-length" in headers else predict()
        request.headers = {**request.headers, **headers}
        answer = dispatcher.dispatch(arrives_now(request))
        assert not isinstance(answer, Response)
        ended = await answer
        assert ended.status == 200
        assert CountingPool.submitted == by_thread
        assert (("content-encoding", "gzip") in ended.headers) is (by_thread and b"accept-encoding" in headers)
        dispatcher.close()

    asyncio.run(scenario())


def test_a_model_that_is_unloaded_since_it_was_quick_is_waited_for_by_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        app = make_app(tmp_path)
        add(app, engine := FakeEngine({DEFAULT_SIGNATURE: ROWS}, echo), is_quick=True)
        registry = app.registry
        dispatcher = app.dispatcher
        # What is_quick has seen no longer holds when the version is looked for.
        loaded = registry.get("model")
        registry.set_policies(Policies(default=ModelPolicy(load="on_demand")))
        registry.set_status("model", 1, VersionStatus(State.START))
        monkeypatch.setattr(registry, "is_quick", lambda _model: True)
        registry.when_wanted(lambda _model: make_available(registry, loaded))
        answer = dispatcher.dispatch(arrives_now(predict()))
        assert not isinstance(answer, Response)
        assert (await answer).status == 200
        assert len(engine.asked) == 1
        dispatcher.close()

    asyncio.run(scenario())


def test_rows_that_take_long_in_all_are_run_by_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.server.executor.ThreadPool", CountingPool)
    monkeypatch.setattr(CountingPool, "submitted", 0)

    async def scenario() -> None:
        app = make_app(tmp_path)
        engine = FakeEngine({DEFAULT_SIGNATURE: OF}, echo)
        make_available(app.registry, LoadedVersion("model", 1, engine, ServingConfig(), pace=Pace(0.0005)))
        dispatcher = app.dispatcher
        for rows, by_threads in ((2, 0), (3, 1)):
            answer = dispatcher.dispatch(predict(orjson.dumps({"instances": [1.0] * rows})))
            assert not isinstance(answer, Response)
            assert orjson.loads((await answer).body) == {"predictions": [1.0] * rows}
            assert CountingPool.submitted == by_threads
        dispatcher.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(("strings", "by_thread"), [(3, False), (10_000, True)])
def test_many_strings_are_decoded_by_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strings: int, by_thread: bool
) -> None:
    monkeypatch.setattr("service.server.executor.ThreadPool", CountingPool)
    monkeypatch.setattr(CountingPool, "submitted", 0)

    async def scenario() -> None:
        app = make_app(tmp_path)
        add(app, FakeEngine({DEFAULT_SIGNATURE: signature({"x": tensor("DT_STRING", -1)})}, echo), is_quick=True)
        dispatcher = app.dispatcher
        answer = dispatcher.dispatch(predict(orjson.dumps({"instances": [""] * strings})))
        assert not isinstance(answer, Response)
        assert (await answer).status == 200
        assert CountingPool.submitted == by_thread
        dispatcher.close()

    asyncio.run(scenario())


def turn(tmp_path: Path, engine: FakeEngine, requests: list[Request], *, gains: bool = True) -> list[Response]:
    """The answers to requests that come in one turn of the loop."""

    async def scenario() -> list[Response]:
        app = make_app(tmp_path)
        in_turns = tick_batcher(engine) if gains else None
        loaded = LoadedVersion("model", 1, engine, ServingConfig(), tick_batcher=in_turns, pace=quick())
        make_available(app.registry, loaded)
        dispatcher = app.dispatcher
        answers = [dispatcher.dispatch(request) for request in requests]
        ended = [answer if isinstance(answer, Response) else await answer for answer in answers]
        sample = app.metrics.registry.get_sample_value
        context = {"model": "model", "version": "1", "protocol": "v1", "verb": "predict"}
        assert sample("serving_request_duration_seconds_count", context) == len(requests)
        dispatcher.close()
        return ended

    return asyncio.run(scenario())


def value(number: float) -> Request:
    return predict(orjson.dumps({"instances": [number]}))


def refuse_negatives(inputs: Mapping[str, Array]) -> dict[str, Array]:
    if (inputs["x"] < 0).any():
        raise InvalidRequest("negative")
    return {"y": inputs["x"] * 2}


def test_what_comes_in_one_turn_is_run_together_and_each_gets_its_own(tmp_path: Path) -> None:
    engine = FakeEngine({DEFAULT_SIGNATURE: ROWS}, refuse_negatives)
    answers = turn(tmp_path, engine, [value(number) for number in range(5)])
    assert [orjson.loads(answer.body) for answer in answers] == [{"predictions": [2.0 * n]} for n in range(5)]
    assert [inputs["x"].tolist() for _, inputs in engine.asked] == [[0, 1, 2, 3, 4]]


def test_a_bad_request_of_a_turn_fails_alone(tmp_path: Path) -> None:
    engine = FakeEngine({DEFAULT_SIGNATURE: ROWS}, refuse_negatives)
    wrong_shape = predict(b'{"instances": [[1.0]]}')
    answers = turn(tmp_path, engine, [value(1), value(-1), wrong_shape, value(3)])
    assert [answer.status for answer in answers] == [200, 400, 400, 200]
    assert orjson.loads(answers[3].body) == {"predictions": [6.0]}


def test_a_model_that_gains_nothing_by_batches_is_run_for_each(tmp_path: Path) -> None:
    engine = FakeEngine({DEFAULT_SIGNATURE: ROWS}, refuse_negatives)
    answers = turn(tmp_path, engine, [value(1), value(-1), value(3)], gains=False)
    assert [answer.status for answer in answers] == [200, 400, 200]
    assert len(engine.asked) == 3


def test_a_bug_in_the_turn_is_a_500_for_each_and_nobody_waits_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Inference, "infer", lambda *_: 1 / 0)
    engine = FakeEngine({DEFAULT_SIGNATURE: ROWS}, refuse_negatives)
    answers = turn(tmp_path, engine, [value(1), value(2)])
    assert [answer.status for answer in answers] == [500, 500]


def test_the_first_of_a_turn_does_not_wait_for_however_many_came_with_it(tmp_path: Path) -> None:
    engine = FakeEngine({DEFAULT_SIGNATURE: ROWS}, refuse_negatives)
    turn(tmp_path, engine, [value(1)] * (MAX_TICK_REQUESTS + 3), gains=False)
    engine.asked.clear()

    async def scenario() -> None:
        app = make_app(tmp_path)
        make_available(app.registry, LoadedVersion("model", 1, engine, ServingConfig(), pace=quick()))
        dispatcher = app.dispatcher
        for _ in range(MAX_TICK_REQUESTS):
            assert not engine.asked
            dispatcher.dispatch(value(1))
        assert len(engine.asked) == MAX_TICK_REQUESTS
        dispatcher.close()

    asyncio.run(scenario())


def test_who_comes_when_too_many_wait_is_told_when_to_come_again_and_health_still_answers(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = make_app(tmp_path, threads=1, max_queue_size=1)
        go_on = threading.Event()

        def held(inputs: object) -> dict[str, object]:
            assert go_on.wait(10)
            return echo(inputs)  # type: ignore[arg-type, return-value]

        engine = FakeEngine({DEFAULT_SIGNATURE: signature({"x": any_shape("DT_FLOAT")})}, held)  # type: ignore[arg-type]
        add(app, engine, is_quick=False)
        dispatcher = app.dispatcher
        running, waiting = dispatcher.dispatch(predict()), dispatcher.dispatch(predict())
        refused = dispatcher.dispatch(predict())
        assert isinstance(refused, Response)
        assert (refused.status, refused.headers) == (429, (("retry-after", "1"),))
        assert b"at most 1 may (SERVING_MAX_QUEUE_SIZE)" in refused.body
        metrics = dispatcher.dispatch(request(b"/metrics", method="GET"))
        assert not isinstance(metrics, Response)
        assert (await metrics).status == 200
        go_on.set()
        assert not isinstance(running, Response)
        assert not isinstance(waiting, Response)
        assert [(await answer).status for answer in (running, waiting)] == [200, 200]
        await asyncio.sleep(0)
        after = dispatcher.dispatch(predict())
        assert not isinstance(after, Response)
        assert (await after).status == 200
        sample = app.metrics.registry.get_sample_value
        assert sample("serving_rejected_total", {"reason": "queue_full"}) == 1
        dispatcher.close()

    asyncio.run(scenario())


def png() -> bytes:
    Image.new("L", (2, 2)).save(file := BytesIO(), "PNG")
    return file.getvalue()


PNG = png()
PICTURES = signature({"pixels": tensor("DT_FLOAT", -1, 2, 2, 1)}, {"y": tensor("DT_FLOAT", -1)})
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="f"; filename="f.png"\r\n\r\n' + PNG + b"\r\n--b--\r\n",
    b"multipart/form-data; boundary=b",
)
V1, V2 = b"/v1/models/model:predict", b"/v2/models/model/infer"


def post(path: bytes, body: bytes, content_type: bytes = b"application/json", **headers: bytes) -> Request:
    named = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    return request(path, body, headers={b"content-type": content_type, **named})


@pytest.mark.parametrize(
    ("request_", "counted"),
    [
        (post(V1, b'{"instances": [[[[0], [0]], [[0], [0]]]]}'), ("v1", "predict")),
        (post(V2, np.zeros(4, np.float32).tobytes(), inference_header_content_length=b"0"), ("v2", "infer")),
        (post(V1, PNG, b"image/png"), ("v1", "predict")),
        (post(V1, *FORM), ("v1", "predict")),
        (
            post(V1, gzip.compress(b'{"instances": [[[[0], [0]], [[0], [0]]]]}'), content_encoding=b"gzip"),
            ("v1", "predict"),
        ),
    ],
    ids=["JSON", "binary", "picture", "form", "coded"],
)
@pytest.mark.parametrize("is_batched", [False, True])
def test_whatever_comes_is_cut_off_at_its_deadline_also_while_its_model_hangs(
    tmp_path: Path, request_: Request, counted: tuple[str, str], is_batched: bool
) -> None:
    async def scenario() -> None:
        app = make_app(tmp_path)
        go_on = threading.Event()
        running = threading.Semaphore(0)

        def hang(inputs: Mapping[str, Array]) -> dict[str, Array]:
            running.release()
            assert go_on.wait(10)
            return {"y": np.zeros(len(inputs["pixels"]), np.float32)}

        engine = FakeEngine({DEFAULT_SIGNATURE: PICTURES}, hang)
        loaded = LoadedVersion(
            "model", 1, engine, ServingConfig(), batcher=batcher(engine) if is_batched else None, pace=Pace(1.0)
        )
        make_available(app.registry, loaded)
        dispatcher = app.dispatcher
        arrived = arrives_now(request_, x_request_timeout_ms=b"100")
        answer = dispatcher.dispatch(arrived)
        assert not isinstance(answer, Response)
        assert running.acquire(timeout=10)
        ended = await asyncio.wait_for(answer, 10)
        assert (ended.status, orjson.loads(ended.body)) == (
            504,
            {"error": "the request took longer than 100 ms (X-Request-Timeout-Ms); it was being run by its model"},
        )
        sample = app.metrics.registry.get_sample_value
        labels = {"model": "model", "version": "1", "protocol": counted[0], "verb": counted[1]}
        assert sample("serving_requests_total", {**labels, "status": "504"}) == 1
        assert sample("serving_rejected_total", {"reason": "deadline"}) == 1
        # In the log, too, it was run, by itself, and did not wait for that.
        context = arrived.context
        assert (context.run_seconds > 0, context.batch_size) == (True, 1)
        stages = context.queue_seconds + context.decode_seconds + context.run_seconds
        assert stages == pytest.approx(context.ended - context.arrived)
        go_on.set()
        dispatcher.close()
        for thread in threading.enumerate():
            if thread.name.startswith("request-"):
                thread.join(10)
        # Its late answer is neither given nor counted.
        assert sample("serving_requests_total", {**labels, "status": "200"}) is None
        assert sample("serving_request_duration_seconds_count", labels) == 1

    asyncio.run(scenario())


def test_a_quick_request_that_its_turn_comes_too_late_for_is_not_run(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = make_app(tmp_path)
        engine = FakeEngine({DEFAULT_SIGNATURE: OF}, echo)
        add(app, engine, is_quick=True)
        dispatcher = app.dispatcher
        late, in_time = predict(), predict()
        late.headers[b"x-request-timeout-ms"] = in_time.headers[b"x-request-timeout-ms"] = b"5000"
        late.context.arrived -= 6
        answers = [dispatcher.dispatch(request) for request in (late, in_time)]
        ended = [await answer for answer in answers if not isinstance(answer, Response)]
        assert [answer.status for answer in ended] == [504, 200]
        assert b"5000 ms (X-Request-Timeout-Ms); it was waiting for its turn" in ended[0].body
        assert len(engine.asked) == 1
        sample = app.metrics.registry.get_sample_value
        assert sample("serving_rejected_total", {"reason": "deadline"}) == 1
        dispatcher.close()

    asyncio.run(scenario())


def test_a_quick_request_whose_client_has_left_before_its_turn_is_not_run(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = make_app(tmp_path)
        engine = FakeEngine({DEFAULT_SIGNATURE: OF}, echo)
        add(app, engine, is_quick=True)
        dispatcher = app.dispatcher
        left, stays = dispatcher.dispatch(predict()), dispatcher.dispatch(predict())
        assert not isinstance(left, Response)
        assert not isinstance(stays, Response)
        left.cancel()
        assert (await stays).status == 200
        assert len(engine.asked) == 1
        dispatcher.close()

    asyncio.run(scenario())


def test_a_wish_that_is_no_time_is_refused_on_every_road(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    dispatcher = app.dispatcher
    requests = [predict(), request(b"/v1/models", method="GET"), post(V1, *FORM)]
    for sent in requests:
        sent.headers = {**sent.headers, b"x-request-timeout-ms": b"soon"}
        answer = dispatcher.dispatch(sent)
        assert isinstance(answer, Response)
        assert answer.status == 400
        assert b"X-Request-Timeout-Ms is 'soon'; expected a whole number of milliseconds, at least 1" in answer.body
    sample = app.metrics.registry.get_sample_value
    assert sample("serving_rejected_total", {"reason": "malformed"}) == len(requests)


@pytest.mark.parametrize(
    ("target", "headers", "seconds"),
    [
        (b"/v2/repository/models/model/load", {}, inf),
        (b"/v2/repository/models/model/load", {b"x-request-timeout-ms": b"5000"}, 5),
        (b"/v2/repository/index", {}, 30),
    ],
)
def test_to_load_a_model_may_take_longer_than_a_request_unless_the_client_says_so(
    tmp_path: Path, target: bytes, headers: dict[bytes, bytes], seconds: float
) -> None:
    async def scenario() -> None:
        app = make_app(tmp_path)
        dispatcher = app.dispatcher
        sent = request(target, headers=headers)
        answer = dispatcher.dispatch(sent)
        assert sent.context.deadline is not None
        assert sent.context.deadline.at - sent.context.arrived == pytest.approx(seconds)
        assert not isinstance(answer, Response)
        await answer
        dispatcher.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("read_before", "waited_ms", "status"),
    [
        (MIN_LONG_TICK_REQUESTS, 201, 429),
        (MIN_LONG_TICK_REQUESTS, 199, 200),
        (MIN_LONG_TICK_REQUESTS - 1, 201, 200),
    ],
    ids=["too late", "in time", "a machine that stood still"],
)
def test_who_is_read_when_a_round_of_the_loop_takes_too_long_is_refused(
    tmp_path: Path, read_before: int, waited_ms: int, status: int
) -> None:
    def arriving(moment: float) -> Request:
        request = predict()
        request.context.arrived = moment
        return request

    async def scenario() -> None:
        app = make_app(tmp_path, max_queue_ms=200)
        engine = FakeEngine({DEFAULT_SIGNATURE: OF}, echo)
        add(app, engine, is_quick=True)
        dispatcher = app.dispatcher
        # Within one round: nothing is awaited.
        before = [dispatcher.dispatch(arriving(1000.0)) for _ in range(read_before)]
        late = dispatcher.dispatch(arriving(1000.0 + waited_ms / 1000))
        refused = late if isinstance(late, Response) else await late
        assert refused.status == status
        if status == 429:
            assert b"200 ms (SERVING_MAX_QUEUE_MS)" in refused.body
        for answer in before:
            assert not isinstance(answer, Response)
            assert (await answer).status == 200
        assert len(engine.asked) == read_before + (status == 200)
        # Another round begins anew.
        await asyncio.sleep(0)
        after = dispatcher.dispatch(arriving(1001.0))
        assert not isinstance(after, Response)
        assert (await after).status == 200
        dispatcher.close()

    asyncio.run(scenario())


def test_a_bug_in_the_flask_app_is_a_500_in_json_and_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        app = make_app(tmp_path)
        app.flask.wsgi_app = lambda environ, start: 1 / 0  # type: ignore[method-assign, assignment, return-value]
        dispatcher = app.dispatcher
        answer = dispatcher.dispatch(request(b"/metrics", method="GET"))
        assert not isinstance(answer, Response)
        assert (await answer).status == 500
        dispatcher.close()

    asyncio.run(scenario())
    assert "GET /metrics failed" in caplog.text


def test_a_bug_in_a_thread_is_a_500_and_its_place_in_the_queue_becomes_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        app = make_app(tmp_path, threads=1, max_queue_size=1)
        add(app, FakeEngine({DEFAULT_SIGNATURE: OF}, echo), is_quick=False)
        dispatcher = app.dispatcher
        monkeypatch.setattr("service.server.dispatch.encode_body", lambda *_: 1 / 0)
        for _ in range(3):
            answer = dispatcher.dispatch(predict())
            assert not isinstance(answer, Response)
            assert (await answer).status == 500
            await asyncio.sleep(0)
        dispatcher.close()

    asyncio.run(scenario())
    assert "Dispatcher.respond failed" in caplog.text


@pytest.mark.parametrize(
    "request_",
    [
        predict(),
        predict(path=b"/v1/models/model/versions/1:predict"),
        infer(np.zeros(1, np.float32)),
        post(V1, PNG, b"image/png"),
        post(V1, *FORM),
        post(V1, gzip.compress(b'{"instances": [1.0]}'), content_encoding=b"gzip"),
    ],
    ids=["v1", "version", "v2", "picture", "form", "coded"],
)
@pytest.mark.parametrize("is_quick", [False, True])
def test_a_version_that_hangs_is_not_asked_and_takes_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_: Request, is_quick: bool
) -> None:
    monkeypatch.setattr("service.server.executor.ThreadPool", CountingPool)
    monkeypatch.setattr(CountingPool, "submitted", 0)

    async def scenario() -> None:
        app = make_app(tmp_path)
        engine = FakeEngine({DEFAULT_SIGNATURE: OF}, echo)
        add(app, engine, is_quick=is_quick)
        app.registry.get("model").health.is_healthy = False
        dispatcher = app.dispatcher
        answer = dispatcher.dispatch(arrives_now(request_))
        assert isinstance(answer, Response)
        assert (answer.status, answer.headers) == (503, (("retry-after", "5"),))
        assert b"its runs do not end; it gets requests again once they have ended" in answer.body
        assert (engine.asked, CountingPool.submitted) == ([], 0)
        sample = app.metrics.registry.get_sample_value
        protocol, verb = ("v2", "infer") if request_.target == V2 else ("v1", "predict")
        labels = {"model": "model", "version": "1", "protocol": protocol, "verb": verb, "status": "503"}
        assert sample("serving_requests_total", labels) == 1
        dispatcher.close()

    asyncio.run(scenario())


def test_a_version_that_hangs_is_asked_no_more_after_some_deadlines_and_leaves_others_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = make_app(tmp_path)
        go_on = threading.Event()
        running = threading.Semaphore(0)

        def hang(inputs: Mapping[str, Array]) -> dict[str, Array]:
            running.release()
            assert go_on.wait(10)
            return {"y": inputs["x"]}

        recovered = asyncio.Event()
        loop = asyncio.get_running_loop()

        def changed(is_healthy: bool) -> None:
            if is_healthy:
                loop.call_soon_threadsafe(recovered.set)

        engine = FakeEngine({DEFAULT_SIGNATURE: ROWS}, hang)
        health = Health("model version 1", Tolerance(2, 0), changed)
        registry = app.registry
        loaded = LoadedVersion("model", 1, engine, ServingConfig(), health=health)
        limits = BatchLimits(8, 0)
        one_by_one = Batcher(loaded.run_in_thread, engine.signatures, Independence(), limits, Unobserved())
        make_available(registry, replace(loaded, batcher=one_by_one))
        other = FakeEngine({DEFAULT_SIGNATURE: ROWS}, echo)
        make_available(registry, LoadedVersion("other", 1, other, ServingConfig(), batcher(other)))
        dispatcher = app.dispatcher

        async def status(answer: "Response | asyncio.Future[Response]") -> int:
            return (answer if isinstance(answer, Response) else await asyncio.wait_for(answer, 10)).status

        def ask(model: bytes = b"model", **headers: bytes) -> "Coroutine[Any, Any, int]":
            return status(
                dispatcher.dispatch(arrives_now(predict(path=b"/v1/models/" + model + b":predict"), **headers))
            )

        asked = [ask(x_request_timeout_ms=b"100") for _ in range(5)]
        assert running.acquire(timeout=10)
        assert await asyncio.gather(*asked, *[ask(b"other") for _ in range(5)]) == [504] * 5 + [200] * 5
        assert len(engine.asked) == 1
        assert [await ask(), await ask(b"other")] == [503, 200]
        assert await status(dispatcher.dispatch(request(b"/v2/models/model/ready", method="GET"))) == 503
        go_on.set()
        await asyncio.wait_for(recovered.wait(), 10)
        assert await ask() == 200
        assert await status(dispatcher.dispatch(request(b"/v2/models/model/ready", method="GET"))) == 200
        dispatcher.close()

    asyncio.run(scenario())


def test_what_the_event_loop_runs_is_watched_and_what_it_has_run_is_not(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = make_app(tmp_path)
        watch = app.loop_watchdog
        seen: list[object] = []

        def poll(inputs: Mapping[str, Array]) -> dict[str, Array]:
            seen.append(watch.running and watch.running.loaded.model)
            if len(seen) > 2:
                raise RuntimeError("out of luck")
            return {"y": inputs["x"]}

        engine = FakeEngine({DEFAULT_SIGNATURE: ROWS}, poll)
        for in_turns in (None, tick_batcher(engine), None):
            loaded = LoadedVersion("model", 1, engine, ServingConfig(), tick_batcher=in_turns, pace=quick())
            make_available(app.registry, loaded)
            dispatcher = app.dispatcher
            answer = dispatcher.dispatch(predict())
            assert not isinstance(answer, Response)
            await answer
            assert watch.running is None
            dispatcher.close()
        assert seen == ["model"] * 3

    asyncio.run(scenario())


def test_who_is_refused_at_the_door_on_and_on_is_told_in_his_turn(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = make_app(tmp_path)
        dispatcher = app.dispatcher
        refusal = Response(401, b"no key")
        given = [dispatcher.reject(refusal, predict()) for _ in range(2000)]
        assert given[0] is refusal
        assert isinstance(given[-1], asyncio.Future)
        dispatcher.close()

    asyncio.run(scenario())
