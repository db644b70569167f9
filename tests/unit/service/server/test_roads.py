"""Which road a request takes, and what happens when too many want the same one."""

import asyncio
import threading
from pathlib import Path

import pytest
from flask import Flask

from service import create_app
from service.batcher import Batcher, BatchLimits, BatchObserver
from service.messages import Answer
from service.registry import LoadedVersion
from service.server.interface import HttpRequest
from service.server.roads import Roads
from service.serving_config import ServingConfig
from service.settings import Settings
from service.signature import DEFAULT_SIGNATURE
from tests.unit.service.fakes import FakeEngine, any_shape, echo, make_available, signature, tensor

ADDRESS = ("127.0.0.1", 8501)
OF = signature({"x": tensor("DT_FLOAT", -1)})


def make_app(tmp_path: Path, **settings: int) -> Flask:
    app = create_app(Settings(models=tmp_path, **settings))  # type: ignore[arg-type]
    app.extensions["watcher"].scan()
    return app


def add(app: Flask, engine: FakeEngine, *, is_quick: bool) -> None:
    batcher = None if is_quick else Batcher(engine.run, engine.signatures, BatchLimits(8, 0), BatchObserver())
    make_available(app.extensions["registry"], LoadedVersion("model", 1, engine, ServingConfig(), batcher))


def predict(body: bytes = b'{"instances": [1.0]}', path: bytes = b"/v1/models/model:predict") -> HttpRequest:
    return HttpRequest("POST", path, {b"content-type": b"application/json"}, body)


@pytest.mark.parametrize(
    ("request_", "is_quick", "at_once"),
    [
        (predict(), True, True),
        (predict(), False, False),
        (predict(b'{"instances": [1.0]}'.ljust(100_000)), True, False),
        (predict(path=b"/v1/models/nowhere:predict"), True, True),
        (HttpRequest("GET", b"/v1/models"), True, False),
        (HttpRequest("POST", b"/v1/models/model:predict", {b"content-type": b"multipart/form-data"}), True, False),
    ],
    ids=["quick model", "slow model", "long body", "no such model", "other route", "form"],
)
def test_what_is_quick_is_answered_at_once_and_the_rest_by_a_thread(
    tmp_path: Path, request_: HttpRequest, is_quick: bool, at_once: bool
) -> None:
    async def scenario() -> None:
        app = make_app(tmp_path)
        add(app, FakeEngine({DEFAULT_SIGNATURE: OF}, echo), is_quick=is_quick)
        roads = Roads(app, app.extensions["settings"], ADDRESS)
        answer = roads.answer(request_)
        assert isinstance(answer, Answer) is at_once
        if not isinstance(answer, Answer):
            assert (await answer).status in (200, 400)
        roads.close()

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
        roads = Roads(app, app.extensions["settings"], ADDRESS)
        running, waiting = roads.answer(predict()), roads.answer(predict())
        refused = roads.answer(predict())
        assert isinstance(refused, Answer)
        assert (refused.status, refused.headers) == (429, (("retry-after", "1"),))
        assert b"at most 1 may (SERVING_MAX_QUEUE_SIZE)" in refused.body
        health = roads.answer(HttpRequest("GET", b"/v2/health/ready"))
        assert not isinstance(health, Answer)
        assert (await health).status == 200
        go_on.set()
        assert not isinstance(running, Answer)
        assert not isinstance(waiting, Answer)
        assert [(await answer).status for answer in (running, waiting)] == [200, 200]
        await asyncio.sleep(0)
        after = roads.answer(predict())
        assert not isinstance(after, Answer)
        assert (await after).status == 200
        sample = app.extensions["metrics"].registry.get_sample_value
        assert sample("serving_rejected_total", {"reason": "queue_full"}) == 1
        roads.close()

    asyncio.run(scenario())


def test_a_bug_in_the_flask_app_is_a_500_in_json_and_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        app = make_app(tmp_path)
        app.wsgi_app = lambda environ, start: 1 / 0  # type: ignore[method-assign, assignment, return-value]
        roads = Roads(app, app.extensions["settings"], ADDRESS)
        answer = roads.answer(HttpRequest("GET", b"/metrics"))
        assert not isinstance(answer, Answer)
        assert (await answer).status == 500
        roads.close()

    asyncio.run(scenario())
    assert "GET /metrics failed" in caplog.text
