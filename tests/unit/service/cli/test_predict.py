import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from service.cli import predict
from service.cli.client import Reply, RunningService

Run = Callable[..., tuple[int, list[Any], str]]


class Service:
    """Has these signatures of one number, and predicts the name of the requested one."""

    max_concurrency = 1

    def __init__(self, *signatures: str, max_rows: int = 100) -> None:
        shape = {"dim": [{"size": "-1"}], "unknown_rank": False}
        self._signatures = {name: {"inputs": {"x": {"tensor_shape": shape}}} for name in signatures}
        self._max_rows = max_rows

    def send(self, path: str, content: bytes | None = None, _content_type: str = "") -> Reply:
        if content is None:
            assert path.endswith("/metadata")
            return Reply(200, {"metadata": {"signature_def": {"signature_def": self._signatures}}}, {})
        body = json.loads(content)
        if len(body["instances"]) > self._max_rows:
            return Reply(413, {"error": "too large"}, {})
        return Reply(200, {"results": [[[body["signature_name"], 1.0]] for _ in body["instances"]]}, {})


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command; the exit code, what it prints line by line as JSON, and its errors."""

    def run_with(service: Service, *arguments: str) -> tuple[int, list[Any], str]:
        monkeypatch.setattr(predict, "RunningService", lambda *_: service)
        code = predict.main(["model", "--json", *arguments])
        printed = capsys.readouterr()
        return code, [json.loads(line) for line in printed.out.splitlines()], printed.err

    return run_with


@pytest.mark.parametrize(
    ("signatures", "flags", "expected"),
    [
        (["serving_default", "other"], [], "serving_default"),
        (["predict_object"], [], "predict_object"),
        (["serving_default", "other"], ["--signature", "other"], "other"),
    ],
)
def test_signature(run: Run, signatures: list[str], flags: list[str], expected: str) -> None:
    code, (answer,), _ = run(Service(*signatures), "10", *flags)
    assert (code, answer["results"]) == (predict.SUCCESS, [[[expected, 1.0]]])


def test_service_that_cannot_be_asked_is_unavailable(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, errors = run(Service("one", "two"), "10")
    assert code == predict.UNAVAILABLE
    assert "model has no signature 'serving_default'; it has 'one', 'two'" in errors
    monkeypatch.setattr(Service, "send", lambda *_: Reply(200, {"error": "<html>"}, {}))
    code, _, errors = run(Service(), "10")
    assert code == predict.UNAVAILABLE
    assert "no service for models" in errors


def test_row_that_begins_with_a_minus_is_no_flag(run: Run) -> None:
    code, answers, _ = run(Service("serving_default"), "-3,4", "-.5", "-1e5,0")
    assert (code, [answer["input"] for answer in answers]) == (predict.SUCCESS, ["-3,4", "-.5", "-1e5,0"])


def test_request_that_is_too_large_is_halved_down_to_a_row(run: Run) -> None:
    code, answers, _ = run(Service("serving_default", max_rows=2), '{"instances": [1, 2, 3, 4, 5]}')
    assert code == predict.SUCCESS
    assert [(answer["first_row"], len(answer["results"])) for answer in answers] == [(0, 2), (2, 1), (3, 2)]
    code, answers, _ = run(Service("serving_default", max_rows=0), '{"instances": [1, 2]}')
    assert (code, [answer["error"] for answer in answers]) == (predict.SOME_FAILED, ["too large (413)"] * 2)


@pytest.mark.parametrize(
    ("text", "url"),
    [("localhost:8501", "http://localhost:8501"), ("https://models.example/x", "https://models.example/x")],
)
def test_url_needs_no_scheme(monkeypatch: pytest.MonkeyPatch, text: str, url: str) -> None:
    services = {url: Service("serving_default")}
    monkeypatch.setattr(predict, "RunningService", lambda url, _key: services[url])
    assert predict.main(["model", "10", "--url", text]) == predict.SUCCESS


@pytest.mark.parametrize(
    "arguments", [["m", "1", "--url", ""], ["m", "1", "--url", "ftp://x"], ["m", "1", "--url", "x:99999"], ["", "1"]]
)
def test_invalid_command_line(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        predict.main(arguments)
    assert raised.value.code == 2


def test_busy_service_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    replies: Iterator[Reply] = iter([Reply(429, {}, {"Retry-After": "3"}), Reply(200, {}, {})])
    waited: list[float] = []
    monkeypatch.setattr(RunningService, "_send", lambda *_: next(replies))
    monkeypatch.setattr("time.sleep", waited.append)
    assert RunningService("http://localhost").send("/").status == 200
    assert [3 <= seconds <= 6 for seconds in waited] == [True]
